from __future__ import annotations

from typing import Any

import numpy as np

from ..oracle import Case
from .common import ids


def visible_padding(rng: np.random.Generator, batch: int, length: int) -> np.ndarray:
    """Rows that are full, padded at the end, or padded in between: every query sees a key.

    Where it sees none, KerasHub's backends differ (`test_padding_rows`).
    """
    mask = np.ones((batch, length), "int32")
    for row in range(1, batch):
        if row % 2 == 1:
            mask[row, length - length // 3 :] = 0
        else:
            mask[row, 1:] = rng.integers(0, 2, length - 1)
    return mask


def inputs(batch: int, length: int, vocabulary: int = 41) -> Any:
    return lambda rng: {
        "token_ids": ids(rng, batch, length, vocabulary),
        "padding_mask": visible_padding(rng, batch, length),
    }


SMALL = {
    "vocabulary_size": 41,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 24,
    "intermediate_dim": 36,
}
STRETCHED = {
    "rope_max_wavelength": 500.0,
    "rope_frequency_adjustment_factor": 8.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0,
    "rope_pretraining_sequence_length": 32,
}
CASES = [
    Case("llama", "LlamaBackbone", SMALL, inputs(5, 9)),
    Case(
        "llama-wavelength",
        "LlamaBackbone",
        {
            **SMALL,
            "num_layers": 3,
            "num_key_value_heads": 1,
            "dropout": 0.2,
            "rope_max_wavelength": 20,
            "rope_position_scaling_factor": 4.0,
        },
        inputs(6, 13),
    ),
    Case(
        "llama-stretched",
        "LlamaBackbone",
        {**SMALL, **STRETCHED, "num_layers": 1, "num_query_heads": 2},
        inputs(4, 40),
    ),
    Case(
        "llama-odd",
        "LlamaBackbone",
        {
            **SMALL,
            "num_query_heads": 3,
            "num_key_value_heads": 3,
            "hidden_dim": 26,
            "intermediate_dim": 15,
            "layer_norm_epsilon": 1e-2,
        },
        inputs(1, 1),
    ),
]
