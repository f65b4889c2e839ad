from __future__ import annotations

from ..oracle import Case
from .gemma import inputs

SMALL = {
    "vocabulary_size": 41,
    "num_layers": 2,
    "num_attention_heads": 4,
    "hidden_dim": 24,
    "intermediate_dim": 36,
}
CASES = [
    Case("falcon", "FalconBackbone", SMALL, inputs(5, 9)),
    Case(
        "falcon-heads",
        "FalconBackbone",
        {
            **SMALL,
            "num_attention_heads": 6,
            "attention_dropout_rate": 0.2,
            "feedforward_dropout_rate": 0.3,
        },
        inputs(6, 13),
    ),
    Case(
        "falcon-odd",
        "FalconBackbone",
        {
            **SMALL,
            "num_layers": 3,
            "num_attention_heads": 3,
            "hidden_dim": 15,
            "intermediate_dim": 7,
            "layer_norm_epsilon": 1e-2,
        },
        inputs(1, 1),
    ),
]
