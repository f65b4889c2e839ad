from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import Checkpoint, Interface

CONFIG = {
    "vocab_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 12,
    "intermediate_size": 20,
    "max_position_embeddings": 20,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.2,
}


def pad(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Padding is at the end and where the id is 1: that is from where transformers counts."""
    mask = inputs["padding_mask"].sort(-1, descending=True).values
    tokens = inputs["token_ids"]
    return {
        "token_ids": torch.where(mask.bool(), torch.where(tokens == 1, 2, tokens), 1),
        "padding_mask": mask,
    }


def inputs(batch: int, length: int) -> Any:
    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        lengths = rng.integers(1, length + 1, (batch, 1))
        mask = (np.arange(length) < lengths).astype("int32")
        mask[0] = 1
        tokens = rng.integers(2, 37, (batch, length), dtype="int32")
        return {"token_ids": np.where(mask, tokens, 1).astype("int32"), "padding_mask": mask}

    return draw


INTERFACE = Interface(
    {"token_ids": "input_ids", "padding_mask": "attention_mask"},
    {"output": ("last_hidden_state", "padding_mask")},
    unmatched=("pooler.dense.weight", "pooler.dense.bias"),
    adapt=pad,
)


def checkpoints(prefix: str, kind: str, backbone: str) -> list[Checkpoint]:
    def checkpoint(name: str, head: str, inputs: Any, **others: Any) -> Checkpoint:
        config = {**CONFIG, **others}
        # KerasHub forgets the embedding of the segment.
        return Checkpoint(
            prefix + name, kind + head, backbone, config, INTERFACE, inputs, in_keras_hub=False
        )

    return [
        checkpoint("", "Model", inputs(4, 9)),
        checkpoint("-masked", "ForMaskedLM", inputs(4, 18), num_hidden_layers=12),
        checkpoint("-classifier", "ForSequenceClassification", inputs(1, 1)),
    ]


CHECKPOINTS = checkpoints("roberta", "Roberta", "RobertaBackbone")
INEXPRESSIBLE = {"roberta-odd": "hidden_dim 13 is not divisible by num_heads 5"}
HEADS = [
    ("RobertaForCausalLM", CONFIG),
    ("RobertaForTokenClassification", CONFIG),
    ("RobertaForQuestionAnswering", CONFIG),
    ("RobertaForMultipleChoice", CONFIG),
]
REFUSED = [
    ("roberta", {"type_vocab_size": 2}, "type_vocab_size is 2; only 1"),
    ("roberta", {"type_vocab_size": ...}, "type_vocab_size is 2; only 1"),
    ("roberta", {"pad_token_id": 0}, "pad_token_id is 0; only 1"),
    ("roberta", {"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
]
