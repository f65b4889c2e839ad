from __future__ import annotations

from typing import Any

from ..oracle import Case
from .common import ids, padding


def inputs(batch: int, encoder_length: int, length: int, vocabulary: int = 31) -> Any:
    return lambda rng: {
        "encoder_token_ids": ids(rng, batch, encoder_length, vocabulary),
        "encoder_padding_mask": padding(rng, batch, encoder_length),
        "decoder_token_ids": ids(rng, batch, length, vocabulary),
        "decoder_padding_mask": padding(rng, batch, length),
    }


SMALL = {
    "vocabulary_size": 31,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 18,
}
CASES = [
    Case("t5", "T5Backbone", SMALL, inputs(5, 9, 6)),
    Case(
        "t5-plain",
        "T5Backbone",
        {
            **SMALL,
            "use_gated_activation": False,
            "key_value_dim": 5,
            "num_heads": 3,
            "activation": "gelu",
            "dropout": 0,
            "layer_norm_epsilon": 1e-3,
        },
        inputs(6, 4, 11),
    ),
    Case(
        "t5-untied",
        "T5Backbone",
        {**SMALL, "num_layers": 3, "tie_embedding_weights": False, "activation": "silu"},
        inputs(1, 1, 1),
    ),
    # Beyond the distance of 128, where all positions share a bucket.
    Case("t5-long", "T5Backbone", {**SMALL, "num_layers": 1}, inputs(2, 300, 150)),
]
