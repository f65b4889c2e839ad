from __future__ import annotations

from typing import Any

from ..oracle import Case
from .common import ids


def inputs(batch: int, length: int, segments: int = 4) -> Any:
    return lambda rng: {
        "token_ids": ids(rng, batch, length, 37),
        "segment_ids": ids(rng, batch, length, segments),
    }


SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 18,
}
CASES = [
    Case("f-net", "FNetBackbone", SMALL, inputs(5, 9)),
    Case(
        "f-net-prime",
        "FNetBackbone",
        {**SMALL, "hidden_dim": 13, "num_segments": 2, "dropout": 0.0},
        inputs(2, 17, 2),
    ),
    Case(
        "f-net-odd",
        "FNetBackbone",
        {**SMALL, "num_layers": 3, "hidden_dim": 7, "intermediate_dim": 5, "dropout": 0.3},
        inputs(1, 1),
    ),
]
