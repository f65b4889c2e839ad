from __future__ import annotations

from ..oracle import Case
from .llama import SMALL, inputs
from .mistral import full_windows
from .mixtral import MANY

EXPERTS = {
    **SMALL,
    "moe_intermediate_dim": 10,
    "shared_expert_intermediate_dim": 14,
    "num_experts": 5,
    "top_k": 2,
}
CASES = [
    Case("qwen-moe", "QwenMoeBackbone", EXPERTS, inputs(*MANY)),
    Case(
        "qwen-moe-window",
        "QwenMoeBackbone",
        {
            **EXPERTS,
            "num_key_value_heads": 1,
            "norm_top_k_prob": True,
            "top_k": 3,
            "tie_word_embeddings": True,
            "use_sliding_window_attention": True,
            "sliding_window_size": 4,
            "router_aux_loss_coefficient": 0.1,
            "rope_max_wavelength": 20,
            "rope_scaling_factor": 3.0,
        },
        full_windows(*MANY),
    ),
    Case(
        "qwen-moe-odd",
        "QwenMoeBackbone",
        {
            **EXPERTS,
            "num_layers": 3,
            "num_query_heads": 3,
            "num_key_value_heads": 3,
            "hidden_dim": 26,
            "num_experts": 1,
            "top_k": 1,
            "dropout": 0.2,
            "layer_norm_epsilon": 1e-2,
        },
        inputs(1, 1),
    ),
    Case(
        "qwen-moe-dense",
        "QwenMoeBackbone",
        {**EXPERTS, "mlp_only_layers": [0]},
        inputs(4, 7),
    ),
    Case(
        "qwen-moe-step",
        "QwenMoeBackbone",
        {**EXPERTS, "decoder_sparse_step": 2},
        inputs(4, 7),
    ),
]
