from __future__ import annotations

from ..oracle import Case
from .llama import SMALL, inputs

CASES = [
    Case("qwen", "QwenBackbone", SMALL, inputs(5, 9)),
    Case(
        "qwen-untied",
        "QwenBackbone",
        {
            **SMALL,
            "num_layers": 3,
            "num_key_value_heads": 1,
            "tie_word_embeddings": False,
            "dropout": 0.2,
            "rope_max_wavelength": 20,
            "rope_scaling_factor": 3.0,
        },
        inputs(6, 13),
    ),
    Case(
        "qwen-odd",
        "QwenBackbone",
        {
            **SMALL,
            "num_query_heads": 3,
            "num_key_value_heads": 3,
            "hidden_dim": 26,
            "intermediate_dim": 15,
            "sliding_window_size": 4,
            "layer_norm_epsilon": 1e-2,
        },
        inputs(1, 7),
    ),
]
