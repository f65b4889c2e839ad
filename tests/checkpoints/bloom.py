from __future__ import annotations

from typing import Any

import numpy as np

from ..cases.common import ids
from . import DECODER, Checkpoint

CONFIG = {
    "vocab_size": 41,
    "n_layer": 2,
    "n_head": 4,
    "hidden_size": 24,
}


def inputs(batch: int, length: int) -> Any:
    """Padding at the end, at the start or both: transformers does not count it in between."""

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        mask = np.ones((batch, length), "int32")
        for row in range(1, batch):
            mask[row, : length // 3 * (row % 2)] = 0
            mask[row, length - row // 2 :] = 0
        return {"token_ids": ids(rng, batch, length, 41), "padding_mask": mask}

    return draw


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    config = {**CONFIG, **others}
    return Checkpoint(
        name, architecture, "BloomBackbone", config, DECODER, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("bloom", "BloomForCausalLM", inputs(5, 9), layer_norm_epsilon=1e-3),
    checkpoint("bloom-bare", "BloomModel", inputs(5, 13), n_head=6, hidden_dropout=0.2),
    checkpoint("bloom-one", "BloomForSequenceClassification", inputs(1, 1), n_head=1, n_layer=1),
]
OLD = [
    ("bloom", {"hidden_size": ..., "n_embed": 24, "n_head": ..., "num_attention_heads": 4}),
    ("bloom", {"n_embed": 24, "n_layer": ..., "num_hidden_layers": 2}),
]
INEXPRESSIBLE = dict.fromkeys(
    ("bloom", "bloom-heads", "bloom-odd"),
    "intermediate_dim is .*; transformers has only 4 × hidden_dim",
)
HEADS = [("BloomForTokenClassification", CONFIG), ("BloomForQuestionAnswering", CONFIG)]
REFUSED = [
    (
        "bloom",
        {"apply_residual_connection_post_layernorm": True},
        "apply_residual_connection_post_layernorm is True",
    ),
    ("bloom", {"n_head": ...}, "n_head missing"),
    ("bloom", {"num_attention_heads": 6}, "n_head and num_attention_heads are 4 and 6"),
    ("bloom", {"hidden_size": ...}, "hidden_size missing"),
    ("bloom", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
]
