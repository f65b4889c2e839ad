from __future__ import annotations

from typing import Any

from ..oracle import Case
from .vit import images


def config(*image_shape: int, **others: Any) -> dict[str, Any]:
    return {
        "image_shape": image_shape,
        "patch_size": 4,
        "num_layers": 2,
        "num_heads": 3,
        "hidden_dim": 12,
        "intermediate_dim": 20,
        **others,
    }


def preset(side: int, heads: int) -> dict[str, Any]:
    return {
        "image_shape": (side, side, 3),
        "patch_size": 16,
        "num_layers": 12,
        "num_heads": heads,
        "hidden_dim": 64 * heads,
        "intermediate_dim": 256 * heads,
    }


PRESETS = {
    "deit_base_distilled_patch16_384_imagenet": preset(384, 12),
    "deit_base_distilled_patch16_224_imagenet": preset(224, 12),
    "deit_tiny_distilled_patch16_224_imagenet": preset(224, 3),
    "deit_small_distilled_patch16_224_imagenet": preset(224, 6),
}
CASES = [
    Case("deit", "DeiTBackbone", config(8, 12, 3), images(2, 8, 12, 3)),
    Case(
        "deit-without",
        "DeiTBackbone",
        config(
            10,
            6,
            1,
            patch_size=(5, 2),
            num_heads=5,
            dropout_rate=0.2,
            attention_dropout=0.1,
            layer_norm_epsilon=1e-3,
            use_mha_bias=False,
        ),
        images(1, 10, 6, 1),
    ),
    Case(
        "deit-channels-first",
        "DeiTBackbone",
        config(5, 12, 8, data_format="channels_first", num_layers=1),
        images(3, 5, 12, 8),
    ),
]
