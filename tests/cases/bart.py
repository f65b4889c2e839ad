from __future__ import annotations

from ..oracle import Case
from .t5 import inputs

SMALL = {
    "vocabulary_size": 31,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 18,
    "max_sequence_length": 19,
}
CASES = [
    Case("bart", "BartBackbone", SMALL, inputs(5, 9, 6)),
    Case("bart-no-dropout", "BartBackbone", {**SMALL, "dropout": 0}, inputs(6, 4, 19)),
    # Deep enough for the decoder's embeddings to come between the encoder's layers.
    Case(
        "bart-deep",
        "BartBackbone",
        {**SMALL, "num_layers": 6, "num_heads": 3, "hidden_dim": 10, "dropout": 0.3},
        inputs(5, 7, 3),
    ),
    Case("bart-odd", "BartBackbone", {**SMALL, "num_layers": 1}, inputs(1, 1, 1)),
]
