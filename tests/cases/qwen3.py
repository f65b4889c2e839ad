from __future__ import annotations

from ..oracle import Case
from .llama import SMALL, inputs

# The epsilon of the norms on queries and keys is fixed; transformers has one for all norms.
SMALL3 = {**SMALL, "head_dim": 8, "layer_norm_epsilon": 1e-5}
CASES = [
    Case("qwen3", "Qwen3Backbone", SMALL3, inputs(5, 9)),
    Case(
        "qwen3-untied",
        "Qwen3Backbone",
        {
            **SMALL3,
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
        "qwen3-odd",
        "Qwen3Backbone",
        {
            **SMALL3,
            "num_query_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": None,
            "hidden_dim": 26,
            "intermediate_dim": 15,
            "sliding_window_size": None,
            "layer_norm_epsilon": 1e-2,
        },
        inputs(1, 1),
    ),
]
