from __future__ import annotations

from typing import Any

from ..oracle import Case
from .common import ids, padding


def inputs(batch: int, length: int, segments: int = 2) -> Any:
    """Padding is where the id is 0."""
    return lambda rng: {
        "token_ids": (1 + ids(rng, batch, length, 36)) * padding(rng, batch, length),
        "segment_ids": ids(rng, batch, length, segments),
    }


SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "head_size": 6,
}
CASES = [
    Case("roformer-v2", "RoformerV2Backbone", SMALL, inputs(5, 9), pad_id=0),
    Case(
        "roformer-v2-options",
        "RoformerV2Backbone",
        {
            **SMALL,
            "use_bias": True,
            "activation": "gelu",
            "dropout": 0.0,
            "num_segments": 3,
            "max_wavelength": 100,
        },
        inputs(6, 17, 3),
        pad_id=0,
    ),
    Case(
        "roformer-v2-odd",
        "RoformerV2Backbone",
        {**SMALL, "num_layers": 3, "num_heads": 5, "head_size": 2, "hidden_dim": 10},
        inputs(1, 1),
        pad_id=0,
    ),
]
