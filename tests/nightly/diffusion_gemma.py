from __future__ import annotations

import numpy as np

from ..cases.gemma4 import SMALL, images, large_vision, places, text, vision_encoder
from ..oracle import Case


def of_images(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two images a row, of which the first is smaller, in other rows the second."""
    given = images(rng, 5, 2, (2, 6), 0)
    small = images(rng, 5, 1, (4, 2), 4)
    for row in range(5):
        for name, value in small.items():
            given[name][row, row % 2] = value[row, 0]
    given |= {**text(rng, 5, 13), **places(rng, 5, 13, 2, 3, "vision")}
    del given["vision_mask"]
    return given


CASES = [
    Case(
        "diffusion-gemma",
        "DiffusionGemmaBackbone",
        {
            **SMALL,
            "sliding_window_size": 3,
            "sliding_window_pattern": 2,
            "vision_encoder": vision_encoder(),
            "num_key_value_heads": 2,
            "num_global_key_value_heads": 1,
            "use_vision_bidirectional_attention": True,
        },
        of_images,
    ),
    Case(
        "diffusion-gemma-experts",
        "DiffusionGemmaBackbone",
        {
            **SMALL,
            "hidden_dim": 12,
            "layer_types": ["full_attention", "sliding_attention"],
            "attention_logit_soft_cap": 2.5,
            "final_logit_soft_cap": 3.0,
            "sliding_window_size": 4,
            "global_head_dim": 8,
            "local_rope_scaling_factor": 2.0,
            "global_rope_scaling_factor": 8.0,
            "global_rope_wavelength": 1e3,
            "local_rope_wavelength": 1e2,
            "global_rope_partial_rotary_factor": 0.6,
            "layer_norm_epsilon": 1e-2,
            "enable_moe_block": True,
            "num_experts": 5,
            "expert_intermediate_dim": 5,
            "num_experts_per_token": 2,
        },
        lambda rng: text(rng, 6, 9),
    ),
]

PRESETS = {
    "diffusion_gemma_26b_a4b_it": {
        "vocabulary_size": 262144,
        "image_size": 896,
        "num_layers": 30,
        "num_query_heads": 16,
        "num_key_value_heads": 8,
        "hidden_dim": 2816,
        "intermediate_dim": 2112,
        "head_dim": 256,
        "global_head_dim": 512,
        "num_global_key_value_heads": 2,
        "enable_moe_block": True,
        "num_experts": 128,
        "expert_intermediate_dim": 704,
        "vision_encoder": large_vision(2816),
    }
}
