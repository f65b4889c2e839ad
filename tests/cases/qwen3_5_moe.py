from __future__ import annotations

from typing import Any

from ..oracle import Case
from . import qwen3_5
from .llama import inputs
from .mixtral import MANY
from .qwen3_5 import VIDEOS, with_images

SMALL: dict[str, Any] = {
    **{name: value for name, value in qwen3_5.SMALL.items() if name != "intermediate_dim"},
    # Four layers amplify what rounds, in Keras as here, beyond the limits for single values.
    "num_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "moe_intermediate_dim": 10,
    "shared_expert_intermediate_size": 14,
    "num_experts": 5,
    "top_k": 2,
}
CASES = [
    Case("qwen3.5-moe", "Qwen3_5MoeBackbone", SMALL, inputs(*MANY)),
    Case(
        "qwen3.5-moe-odd",
        "Qwen3_5MoeBackbone",
        {
            **SMALL,
            "num_query_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 4,
            "layer_types": ["full_attention", "linear_attention"],
            "partial_rotary_factor": 0.5,
            "rope_max_wavelength": 20,
            "rope_scaling_factor": 3.0,
            "layer_norm_epsilon": 1e-2,
            "dropout": 0.2,
            "tie_word_embeddings": True,
            "num_experts": 1,
            "top_k": 1,
            "mrope_section": [1, 0, 0],
            "router_aux_loss_coefficient": 0.1,
        },
        inputs(1, 1),
    ),
    Case(
        "qwen3.5-moe-many",
        "Qwen3_5MoeBackbone",
        {**SMALL, "num_experts": 7, "top_k": 3, "sliding_window_size": None},
        inputs(*MANY),
    ),
    Case(
        "qwen3.5-moe-images",
        "Qwen3_5MoeBackbone",
        {**SMALL, "num_layers": 1, "layer_types": ["full_attention"], "vision_encoder": VIDEOS},
        with_images(37, 17, [[1, 2, 4], [1, 2, 2]], VIDEOS),
    ),
]
