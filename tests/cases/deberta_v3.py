from __future__ import annotations

from ..oracle import Case
from .gpt2 import inputs

SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
}
CASES = [
    Case("deberta-v3", "DebertaV3Backbone", {**SMALL, "bucket_size": 6}, inputs(5, 9)),
    Case("deberta-v3-no-dropout", "DebertaV3Backbone", {**SMALL, "dropout": 0}, inputs(6, 17)),
    # Distances beyond the largest, and exact, logarithmic and clamped buckets.
    Case(
        "deberta-v3-long",
        "DebertaV3Backbone",
        {**SMALL, "num_layers": 1, "bucket_size": 9, "max_sequence_length": 24, "dropout": 0.3},
        inputs(5, 40),
    ),
    Case(
        "deberta-v3-odd",
        "DebertaV3Backbone",
        {**SMALL, "num_layers": 3, "num_heads": 3, "hidden_dim": 9, "bucket_size": 2},
        inputs(2, 1),
    ),
]
