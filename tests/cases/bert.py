from __future__ import annotations

from typing import Any

from ..oracle import Case
from .common import ids, padding


def inputs(batch: int, length: int, vocabulary: int, segments: int = 2) -> Any:
    return lambda rng: {
        "token_ids": ids(rng, batch, length, vocabulary),
        "segment_ids": ids(rng, batch, length, segments),
        "padding_mask": padding(rng, batch, length),
    }


SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 17,
}
CASES = [
    Case("bert", "BertBackbone", SMALL, inputs(5, 9, 37)),
    Case("bert-no-dropout", "BertBackbone", {**SMALL, "dropout": 0.0}, inputs(6, 17, 37)),
    Case(
        "bert-odd",
        "BertBackbone",
        {**SMALL, "num_layers": 3, "num_heads": 5, "hidden_dim": 35, "num_segments": 4},
        inputs(1, 1, 37, 4),
    ),
    Case(
        "bert-uneven-heads",
        "BertBackbone",
        {**SMALL, "num_heads": 5, "hidden_dim": 13, "trainable": False, "name": "mine"},
        inputs(5, 8, 37),
    ),
]
