from __future__ import annotations

from ..oracle import Case
from .gpt2 import inputs
from .roberta import SMALL

CASES = [
    Case("xlm-roberta", "XLMRobertaBackbone", SMALL, inputs(5, 9)),
    Case(
        "xlm-roberta-odd",
        "XLMRobertaBackbone",
        {**SMALL, "num_heads": 3, "hidden_dim": 10, "dropout": 0.0, "max_sequence_length": 7},
        inputs(4, 7),
    ),
]
