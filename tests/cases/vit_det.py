from __future__ import annotations

from typing import Any

from ..oracle import Case
from .vit import images


def config(side: int, **others: Any) -> dict[str, Any]:
    return {
        "hidden_size": 6,
        "num_layers": 2,
        "intermediate_dim": 7,
        "num_heads": 2,
        "global_attention_layer_indices": [1],
        "image_shape": (side, side, 3),
        "patch_size": 4,
        "num_output_channels": 5,
        "window_size": 2,
        **others,
    }


CASES = [
    Case("vit_det", "ViTDetBackbone", config(12), images(2, 12, 12, 3)),
    Case(
        "vit_det-without",
        "ViTDetBackbone",
        config(
            17,
            num_heads=3,
            patch_size=3,
            use_bias=False,
            use_abs_pos=False,
            use_rel_pos=False,
            window_size=3,
            layer_norm_epsilon=0.1,
        ),
        images(1, 17, 17, 3),
    ),
    Case(
        "vit_det-gray",
        "ViTDetBackbone",
        config(
            10,
            image_shape=(10, 10, 1),
            global_attention_layer_indices=(0, 2, 5),
            num_layers=3,
            window_size=7,
            patch_size=5,
        ),
        images(3, 10, 10, 1),
    ),
    Case(
        "vit_det-no-windows",
        "ViTDetBackbone",
        config(4, global_attention_layer_indices=[], window_size=0, num_layers=1),
        images(2, 4, 4, 3),
    ),
]
