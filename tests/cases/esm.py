from __future__ import annotations

from typing import Any

import numpy as np

from ..oracle import Case
from .common import ids, padding


def inputs(batch: int, length: int, pad: int = 0) -> Any:
    """Padding is where the id is `pad`."""

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        tokens = (pad + 1 + ids(rng, batch, length, 32)) % 33
        return {"token_ids": np.where(padding(rng, batch, length), tokens, pad).astype("int32")}

    return draw


SMALL = {
    "vocabulary_size": 33,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
}
CASES = [
    Case("esm", "ESMBackbone", SMALL, inputs(5, 9), pad_id=0),
    Case(
        "esm-absolute",
        "ESMBackbone",
        {
            **SMALL,
            "use_pre_layer_norm": True,
            "position_embedding_type": "absolute",
            "max_sequence_length": 21,
            "pad_token_id": 3,
            "layer_norm_eps": 1e-5,
        },
        inputs(6, 17, pad=3),
        pad_id=3,
    ),
    Case(
        "esm-options",
        "ESMBackbone",
        {
            **SMALL,
            "use_bias": False,
            "activation": "relu",
            "dropout": 0.0,
            "max_wavelength": 50,
            "pad_token_id": 1,
        },
        inputs(6, 13, pad=1),
        pad_id=1,
    ),
    Case(
        "esm-odd",
        "ESMBackbone",
        {**SMALL, "num_layers": 3, "num_heads": 5, "hidden_dim": 10, "use_pre_layer_norm": True},
        inputs(2, 1),
        pad_id=0,
    ),
]
