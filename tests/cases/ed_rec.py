from __future__ import annotations

from ..oracle import Case
from .t5 import inputs

SMALL = {
    "vocab_size": 31,
    "num_layers_enc": 2,
    "num_layers_dec": 3,
    "hidden_dim": 6,
    "intermediate_dim": 9,
    "num_heads": 3,
}
CASES = [
    Case("edrec", "EdRecBackbone", SMALL, inputs(5, 9, 6)),
    Case(
        "edrec-options",
        "EdRecBackbone",
        {
            **SMALL,
            "num_layers_enc": 3,
            "num_layers_dec": 1,
            "hidden_dim": 11,
            "intermediate_dim": 18,
            "num_heads": 3,
            "dropout": 0.3,
            "epsilon": 1e-2,
        },
        inputs(6, 4, 11),
    ),
    Case("edrec-odd", "EdRecBackbone", {**SMALL, "num_heads": 1}, inputs(1, 1, 1)),
]
