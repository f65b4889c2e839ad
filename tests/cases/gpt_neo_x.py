from __future__ import annotations

from ..oracle import Case
from .bloom import SMALL
from .gemma import inputs as any_inputs
from .llama import inputs

CASES = [
    Case(
        "gpt-neo-x",
        "GPTNeoXBackbone",
        {**SMALL, "rotary_percentage": 0.5, "num_heads": 3},
        inputs(5, 9),
    ),
    Case(
        "gpt-neo-x-dropout",
        "GPTNeoXBackbone",
        {
            **SMALL,
            "num_heads": 3,
            "dropout": 0.2,
            "rotary_max_wavelength": 20,
            "max_sequence_length": 5,
        },
        any_inputs(6, 13),
    ),
    Case(
        "gpt-neo-x-odd",
        "GPTNeoXBackbone",
        {
            **SMALL,
            "num_layers": 3,
            "num_heads": 3,
            "hidden_dim": 30,
            "intermediate_dim": 7,
            "rotary_percentage": 1.0,
            "layer_norm_epsilon": 1e-2,
        },
        inputs(1, 1),
    ),
]
