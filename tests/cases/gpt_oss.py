from __future__ import annotations

from ..oracle import Case
from .llama import SMALL, inputs
from .mixtral import MANY

EXPERTS = {**SMALL, "intermediate_dim": 10, "num_experts": 5, "head_dim": 8}
CASES = [
    Case("gpt-oss", "GptOssBackbone", EXPERTS, inputs(*MANY)),
    Case(
        "gpt-oss-window",
        "GptOssBackbone",
        {
            **EXPERTS,
            "num_key_value_heads": 1,
            "sliding_window": 4,
            "top_k": 3,
            "rope_max_wavelength": 150000,
            "rope_scaling_factor": 32.0,
        },
        inputs(*MANY),
    ),
    Case(
        "gpt-oss-odd",
        "GptOssBackbone",
        {
            **EXPERTS,
            "num_layers": 3,
            "num_query_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": None,
            "hidden_dim": 21,
            "num_experts": 1,
            "top_k": 1,
            "dropout": 0.2,
            "sliding_window": None,
            "layer_norm_epsilon": 1e-2,
        },
        inputs(1, 1),
    ),
    Case(
        "gpt-oss-narrow",
        "GptOssBackbone",
        {**EXPERTS, "top_k": 5, "head_dim": 14, "sliding_window": 1, "rope_scaling_factor": 3.0},
        inputs(5, 9),
    ),
]
