from __future__ import annotations

from typing import Any

from ..oracle import Case
from .common import ids, padding


def inputs(batch: int, samples: int, length: int) -> Any:
    return lambda rng: {
        "encoder_input_values": rng.standard_normal((batch, samples, 1), dtype="float32"),
        "encoder_padding_mask": padding(rng, batch, samples),
        "decoder_token_ids": ids(rng, batch, length, 31),
        "decoder_padding_mask": padding(rng, batch, length),
    }


SMALL = {
    "vocabulary_size": 31,
    "filter_dim": 16,
    "encoder_num_layers": 2,
    "decoder_num_layers": 3,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "encoder_num_heads": 2,
    "decoder_num_heads": 2,
    "feedforward_expansion_factor": 2,
}
CASES = [
    Case("moonshine", "MoonshineBackbone", SMALL, inputs(5, 2100, 6), mixed=False),
    Case(
        "moonshine-options",
        "MoonshineBackbone",
        {
            **SMALL,
            "encoder_num_layers": 3,
            "decoder_num_layers": 1,
            "encoder_num_heads": 3,
            "encoder_use_swiglu_activation": True,
            "decoder_use_swiglu_activation": False,
            "pad_head_dim_to_multiple_of": 5,
            "partial_rotary_factor": 0.9,
            "dropout": 0.2,
            "initializer_range": 0.05,
            "rope_theta": 500.0,
            "attention_bias": True,
            "attention_dropout": 0.1,
        },
        inputs(6, 1800, 7),
    ),
    Case(
        "moonshine-odd",
        "MoonshineBackbone",
        {**SMALL, "encoder_num_heads": 1, "decoder_num_heads": 1, "partial_rotary_factor": 1.0},
        inputs(1, 1279, 1),
    ),
]
