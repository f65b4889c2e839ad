from __future__ import annotations

from ..oracle import Case
from .llama import SMALL, inputs
from .mixtral import MANY

EXPERTS = {
    **SMALL,
    "moe_intermediate_dim": 10,
    "num_experts": 5,
    "top_k": 2,
    "head_dim": 8,
}
CASES = [
    Case("qwen3-moe", "Qwen3MoeBackbone", EXPERTS, inputs(*MANY)),
    Case(
        "qwen3-moe-mixed",
        "Qwen3MoeBackbone",
        {
            **EXPERTS,
            "num_layers": 4,
            "num_key_value_heads": 1,
            "norm_top_k_prob": True,
            "top_k": 3,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [1],
            "tie_word_embeddings": True,
            "router_aux_loss_coefficient": 0.1,
            "rope_max_wavelength": 20,
            "rope_scaling_factor": 3.0,
        },
        inputs(*MANY),
    ),
    Case(
        "qwen3-moe-odd",
        "Qwen3MoeBackbone",
        {
            **EXPERTS,
            "num_layers": 3,
            "num_query_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": None,
            "hidden_dim": 26,
            "num_experts": 1,
            "top_k": 1,
            "dropout": 0.2,
            "sliding_window_size": None,
            "layer_norm_epsilon": 1e-2,
        },
        inputs(1, 1),
    ),
]
