from __future__ import annotations

from ..oracle import Case
from .llama import SMALL, inputs
from .mistral import full_windows

# Rounded logits send a few tokens in a hundred to another expert, in Keras as here; with many
# tokens the mean error tells nevertheless.
MANY = (37, 19)
EXPERTS = {**SMALL, "intermediate_dim": 20, "num_experts": 5}
CASES = [
    Case("mixtral", "MixtralBackbone", EXPERTS, inputs(*MANY)),
    Case(
        "mixtral-window",
        "MixtralBackbone",
        {**EXPERTS, "sliding_window": 4, "top_k": 3, "router_aux_loss_coef": 0.1},
        full_windows(*MANY),
    ),
    Case(
        "mixtral-no-window",
        "MixtralBackbone",
        {
            **EXPERTS,
            "num_experts": 3,
            "top_k": 3,
            "router_jitter_noise": 0.1,
            "sliding_window": None,
            "dropout": 0.2,
            "rope_max_wavelength": 20,
            "rope_scaling_factor": 3.0,
        },
        inputs(4, 11),
    ),
    Case(
        "mixtral-odd",
        "MixtralBackbone",
        {
            **EXPERTS,
            "num_layers": 3,
            "num_query_heads": 3,
            "num_key_value_heads": 1,
            "hidden_dim": 26,
            "intermediate_dim": 7,
            "num_experts": 1,
            "top_k": 1,
            "sliding_window": 1,
            "layer_norm_epsilon": 1e-2,
        },
        inputs(1, 1),
    ),
]
