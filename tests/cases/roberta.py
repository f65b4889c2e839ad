from __future__ import annotations

from ..oracle import Case
from .gpt2 import inputs

SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 18,
}
CASES = [
    Case("roberta", "RobertaBackbone", SMALL, inputs(5, 9)),
    Case("roberta-no-dropout", "RobertaBackbone", {**SMALL, "dropout": 0}, inputs(6, 18)),
    Case(
        "roberta-odd",
        "RobertaBackbone",
        {**SMALL, "num_layers": 3, "num_heads": 5, "hidden_dim": 13, "dropout": 0.3},
        inputs(1, 1),
    ),
]
