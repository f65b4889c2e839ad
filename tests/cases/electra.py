from __future__ import annotations

from ..oracle import Case
from .bert import inputs

SMALL = {
    "vocab_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "embedding_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 17,
}
CASES = [
    Case("electra", "ElectraBackbone", SMALL, inputs(5, 9, 37)),
    Case(
        "electra-projection",
        "ElectraBackbone",
        {**SMALL, "embedding_dim": 7, "dropout": 0.0, "num_segments": 3},
        inputs(6, 17, 37, 3),
    ),
    Case(
        "electra-odd",
        "ElectraBackbone",
        {**SMALL, "num_layers": 3, "num_heads": 5, "hidden_dim": 13, "dropout": 0.3},
        inputs(1, 1, 37),
    ),
]
