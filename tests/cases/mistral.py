from __future__ import annotations

from typing import Any

import numpy as np

from ..oracle import Case
from .common import ids
from .llama import SMALL, inputs


def full_windows(batch: int, length: int) -> Any:
    """Padding in every other place at most, so that every window holds a key."""

    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        mask = np.ones((batch, length), "int32")
        mask[1:, 1::2] = rng.integers(0, 2, (batch - 1, length // 2))
        return {"token_ids": ids(rng, batch, length, 41), "padding_mask": mask}

    return make


CASES = [
    Case("mistral", "MistralBackbone", SMALL, inputs(5, 9)),
    Case("mistral-window", "MistralBackbone", {**SMALL, "sliding_window": 4}, full_windows(6, 13)),
    Case(
        "mistral-no-window",
        "MistralBackbone",
        {
            **SMALL,
            "sliding_window": None,
            "head_dim": 10,
            "dropout": 0.2,
            "rope_max_wavelength": 20,
            "rope_scaling_factor": 3.0,
        },
        inputs(4, 11),
    ),
    Case(
        "mistral-odd",
        "MistralBackbone",
        {
            **SMALL,
            "num_layers": 3,
            "num_query_heads": 3,
            "num_key_value_heads": 1,
            "hidden_dim": 26,
            "intermediate_dim": 15,
            "sliding_window": 1,
            "layer_norm_epsilon": 1e-2,
        },
        inputs(1, 1),
    ),
]
