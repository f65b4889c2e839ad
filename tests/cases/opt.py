from __future__ import annotations

from ..oracle import Case
from .gpt2 import SMALL, inputs

CASES = [
    Case("opt", "OPTBackbone", {**SMALL, "max_sequence_length": 31}, inputs(5, 9)),
    Case("opt-no-dropout", "OPTBackbone", {**SMALL, "dropout": 0}, inputs(6, 17)),
    Case(
        "opt-odd",
        "OPTBackbone",
        {**SMALL, "num_layers": 3, "num_heads": 7, "hidden_dim": 21, "dropout": 0.3},
        inputs(1, 1),
    ),
]
