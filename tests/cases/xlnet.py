from __future__ import annotations

from typing import Any

from ..oracle import Case
from .common import ids, padding


def inputs(batch: int, length: int, segments: int = 2) -> Any:
    return lambda rng: {
        "token_ids": ids(rng, batch, length, 37),
        "padding_mask": padding(rng, batch, length),
        "segment_ids": ids(rng, batch, length, segments),
    }


SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
}
CASES = [
    Case("xlnet", "XLNetBackbone", SMALL, inputs(5, 9)),
    Case(
        "xlnet-options",
        "XLNetBackbone",
        {
            **SMALL,
            "dropout": 0.2,
            "activation": "relu",
            "kernel_initializer_range": 0.3,
            "bias_initializer": "ones",
        },
        inputs(6, 17, 3),
    ),
    Case("xlnet-alone", "XLNetBackbone", {**SMALL, "num_heads": 3}, inputs(1, 13)),
    Case(
        "xlnet-odd",
        "XLNetBackbone",
        {**SMALL, "num_layers": 3, "num_heads": 5, "hidden_dim": 10},
        inputs(2, 1),
    ),
]
