from __future__ import annotations

from ..oracle import Case
from .llama import SMALL, inputs

SU = {
    "rope_scaling_type": "su",
    "rope_scaling_short_factor": [1.0, 1.1, 1.5],
    "rope_scaling_long_factor": [1.0, 3.0, 7.5],
    "max_sequence_length": 80,
    "pretraining_sequence_length": 10,
}
CASES = [
    Case("phi3", "Phi3Backbone", SMALL, inputs(5, 9)),
    Case("phi3-short", "Phi3Backbone", {**SMALL, **SU}, inputs(4, 10)),
    Case("phi3-long", "Phi3Backbone", {**SMALL, **SU, "num_key_value_heads": 4}, inputs(4, 11)),
    Case(
        "phi3-odd",
        "Phi3Backbone",
        {
            **SMALL,
            **SU,
            "num_layers": 3,
            "num_query_heads": 3,
            "num_key_value_heads": 1,
            "hidden_dim": 20,
            "intermediate_dim": 15,
            "max_sequence_length": 10,
            "rope_max_wavelength": 20,
            "dropout": 0.2,
            "layer_norm_epsilon": 1e-2,
        },
        inputs(1, 1),
    ),
]
