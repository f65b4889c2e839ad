from __future__ import annotations

from ..oracle import Case
from .bert import inputs

SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "embedding_dim": 7,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 17,
}
CASES = [
    Case("albert", "AlbertBackbone", SMALL, inputs(5, 9, 37)),
    Case(
        "albert-groups",
        "AlbertBackbone",
        {**SMALL, "num_layers": 4, "num_groups": 2, "num_inner_repetitions": 3, "dropout": 0.1},
        inputs(6, 17, 37),
    ),
    Case(
        "albert-odd",
        "AlbertBackbone",
        {
            **SMALL,
            "num_layers": 3,
            "num_groups": 3,
            "num_heads": 5,
            "hidden_dim": 13,
            "num_segments": 4,
        },
        inputs(1, 1, 37, 4),
    ),
]
