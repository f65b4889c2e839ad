from __future__ import annotations

from typing import Any

import numpy as np

from ..oracle import Case
from .common import ids, padding


def inputs(batch: int, length: int, size: int) -> Any:
    """Rows with a response at the end, as trained, one with none, one with it anywhere."""

    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        response = np.zeros((batch, length), "int32")
        for row in range(batch):
            response[row, length - row :] = row > 0
        response[-1] = rng.integers(0, 2, length)
        return {
            "images": rng.standard_normal((batch, size, size, 3)).astype("float32"),
            "token_ids": ids(rng, batch, length, 41),
            "padding_mask": padding(rng, batch, length),
            "response_mask": response,
        }

    return make


SMALL = {
    "vocabulary_size": 41,
    "image_size": 8,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 1,
    "hidden_dim": 24,
    "intermediate_dim": 36,
    "head_dim": 6,
    "vit_patch_size": 4,
    "vit_num_heads": 2,
    "vit_hidden_dim": 10,
    "vit_num_layers": 1,
    "vit_intermediate_dim": 14,
}
CASES = [
    # With larger weights and adapters errors of rounding grow beyond the limits.
    Case("pali-gemma", "PaliGemmaBackbone", SMALL, inputs(5, 9, 8), deviation=0.1),
    Case(
        "pali-gemma2",
        "PaliGemmaBackbone",
        {
            **SMALL,
            "image_size": 13,
            "num_layers": 3,
            "num_key_value_heads": 2,
            "vit_patch_size": 5,
            "vit_num_layers": 2,
            "vit_name": "tower",
            "use_post_ffw_norm": True,
            "use_post_attention_norm": True,
            "attention_logit_soft_cap": 5,
            "final_logit_soft_cap": 3.0,
            "use_sliding_window_attention": True,
            "sliding_window_size": 5,
        },
        inputs(6, 11, 13),
    ),
    Case(
        "pali-gemma-odd",
        "PaliGemmaBackbone",
        {
            **SMALL,
            "image_size": 9,
            "num_query_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 10,
            "intermediate_dim": 15,
            "vit_num_heads": 1,
            "vit_patch_size": 3,
            "vit_classifier_activation": "softmax",
            "query_head_dim_normalize": False,
            "use_sliding_window_attention": True,
            "sliding_window_size": 3,
            "layer_norm_epsilon": 1e-2,
            "dropout": 0.2,
        },
        inputs(2, 1, 9),
    ),
]

VIT = {
    "vit_patch_size": 14,
    "vit_num_heads": 16,
    "vit_hidden_dim": 1152,
    "vit_num_layers": 27,
    "vit_intermediate_dim": 4304,
}
GEMMA = {
    "vocabulary_size": 257152,
    "num_layers": 18,
    "num_query_heads": 8,
    "num_key_value_heads": 1,
    "hidden_dim": 2048,
    "intermediate_dim": 32768,
    "head_dim": 256,
    **VIT,
}
GEMMA2_3B = {
    **GEMMA,
    "num_layers": 26,
    "num_key_value_heads": 4,
    "hidden_dim": 2304,
    "intermediate_dim": 18432,
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "attention_logit_soft_cap": 50,
    "final_logit_soft_cap": 30,
    "use_sliding_window_attention": True,
}
GEMMA2_10B = {
    **GEMMA2_3B,
    "num_layers": 42,
    "num_query_heads": 16,
    "num_key_value_heads": 8,
    "hidden_dim": 3584,
    "intermediate_dim": 28672,
}
GEMMA2_28B = {
    **GEMMA2_3B,
    "num_layers": 46,
    "num_query_heads": 32,
    "num_key_value_heads": 16,
    "hidden_dim": 4608,
    "intermediate_dim": 73728,
    "head_dim": 128,
    "query_head_dim_normalize": False,
}
SIZES = (
    (GEMMA, "pali_gemma_3b_mix", (224, 448)),
    (GEMMA, "pali_gemma_3b", (224, 448, 896)),
    (GEMMA2_3B, "pali_gemma_2_ft_docci_3b", (448,)),
    (GEMMA2_3B, "pali_gemma2_mix_3b", (224, 448)),
    (GEMMA2_3B, "pali_gemma2_pt_3b", (224, 448, 896)),
    (GEMMA2_10B, "pali_gemma2_ft_docci_10b", (448,)),
    (GEMMA2_10B, "pali_gemma2_mix_10b", (224, 448)),
    (GEMMA2_10B, "pali_gemma2_pt_10b", (224, 448, 896)),
    (GEMMA2_28B, "pali_gemma2_mix_28b", (224, 448)),
    (GEMMA2_28B, "pali_gemma2_pt_28b", (224, 448, 896)),
)
PRESETS = {
    f"{name}_{size}": {**config, "image_size": size}
    for config, name, sizes in SIZES
    for size in sizes
}
# Those of larger images have more positions than the one counted.
MISCOUNTED = {
    "pali_gemma2_mix_28b_448": -884736,
    "pali_gemma2_pt_28b_448": -884736,
    "pali_gemma2_pt_28b_896": -4423680,
}
