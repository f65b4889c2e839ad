from __future__ import annotations

from typing import Any

import numpy as np

from . import Checkpoint, Interface

CONFIG = {
    "vocab_size": 33,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 12,
    "intermediate_size": 20,
    "max_position_embeddings": 22,
    "position_embedding_type": "rotary",
    "pad_token_id": 1,
    "layer_norm_eps": 1e-5,
}


def inputs(batch: int, length: int) -> Any:
    """Nothing is padding: transformers wants a mask for it, our model has none."""

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"token_ids": rng.integers(4, 33, (batch, length), dtype="int32")}

    return draw


INTERFACE = Interface(
    {"token_ids": "input_ids"},
    {"output": ("last_hidden_state", None)},
    unmatched=(
        "contact_head.regression.bias",
        "contact_head.regression.weight",
        "pooler.dense.bias",
        "pooler.dense.weight",
        "rotary_embeddings.inv_freq",
    ),
    adapt=lambda inputs: {name: value.clamp(4) for name, value in inputs.items()},
)


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    config = {**CONFIG, **others}
    return Checkpoint(
        name, architecture, "ESMBackbone", config, INTERFACE, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("esm", "EsmModel", inputs(4, 9)),
    checkpoint("esm-masked", "EsmForMaskedLM", inputs(4, 21), num_hidden_layers=12),
    checkpoint(
        "esm-absolute",
        "EsmForSequenceClassification",
        inputs(4, 20),
        position_embedding_type="absolute",
        emb_layer_norm_before=True,
    ),
    checkpoint("esm-wavelength", "EsmForTokenClassification", inputs(1, 1), rope_theta=50.0),
]
INEXPRESSIBLE = {"esm-options": "(?s)activation is 'relu'"}
HEADS = [("EsmForTokenClassification", CONFIG)]
REFUSED = [
    ("esm", {"position_embedding_type": "relative_key"}, "'relative_key'; only absolute or rotary"),
    ("esm", {"is_folding_model": True}, "is_folding_model is True"),
    ("esm", {"pad_token_id": None}, "pad_token_id missing"),
]
