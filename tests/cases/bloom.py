from __future__ import annotations

from ..oracle import Case
from .gemma import inputs

SMALL = {
    "vocabulary_size": 41,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 24,
    "intermediate_dim": 36,
}
CASES = [
    Case("bloom", "BloomBackbone", SMALL, inputs(5, 9)),
    Case("bloom-heads", "BloomBackbone", {**SMALL, "num_heads": 6, "dropout": 0.2}, inputs(6, 13)),
    Case(
        "bloom-odd",
        "BloomBackbone",
        {
            **SMALL,
            "num_layers": 3,
            "num_heads": 3,
            "hidden_dim": 15,
            "intermediate_dim": 7,
            "layer_norm_epsilon": 1e-2,
        },
        inputs(1, 1),
    ),
]
