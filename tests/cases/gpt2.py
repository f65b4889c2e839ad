from __future__ import annotations

from typing import Any

from ..oracle import Case
from .common import ids, padding


def inputs(batch: int, length: int, vocabulary: int = 37) -> Any:
    return lambda rng: {
        "token_ids": ids(rng, batch, length, vocabulary),
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
    Case("gpt2", "GPT2Backbone", SMALL, inputs(5, 9)),
    Case("gpt2-no-dropout", "GPT2Backbone", {**SMALL, "dropout": 0}, inputs(6, 17)),
    Case(
        "gpt2-odd",
        "GPT2Backbone",
        {**SMALL, "num_layers": 3, "num_heads": 7, "hidden_dim": 21, "dropout": 0.3},
        inputs(1, 1),
    ),
]
