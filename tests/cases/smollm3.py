from __future__ import annotations

from ..oracle import Case
from .llama import inputs

SMALL = {
    "vocabulary_size": 41,
    "hidden_dim": 24,
    "intermediate_dim": 36,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_layer_enabled_list": [True, False],
    "layer_types": ["full_attention"] * 2,
    "mlp_bias": False,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
}
CASES = [
    Case("smollm3", "SmolLM3Backbone", SMALL, inputs(5, 9)),
    Case(
        "smollm3-biases",
        "SmolLM3Backbone",
        {
            **SMALL,
            "num_layers": 3,
            "num_key_value_heads": 1,
            "attention_bias": True,
            "attention_dropout": 0.2,
            "mlp_bias": True,
            "rope_layer_enabled_list": [False],
            "layer_types": ["sliding_attention"] * 3,
            "max_position_embeddings": 4,
            "rope_theta": 20.0,
        },
        inputs(6, 13),
    ),
    Case(
        "smollm3-odd",
        "SmolLM3Backbone",
        {
            **SMALL,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "hidden_dim": 18,
            "intermediate_dim": 7,
            "layer_norm_epsilon": 1e-2,
        },
        inputs(1, 1),
    ),
]
