from __future__ import annotations

from typing import Any

from ..oracle import Case
from .vit import images


def config(*image_shape: int, **others: Any) -> dict[str, Any]:
    return {
        "image_shape": image_shape,
        "embed_dim": 6,
        "depths": (2, 1),
        "num_heads": (2, 3),
        "window_size": 3,
        "patch_size": 2,
        **others,
    }


def preset(dim: int, depth: int, window: int, side: int) -> dict[str, Any]:
    return config(
        side,
        side,
        3,
        embed_dim=dim,
        depths=(2, 2, depth, 2),
        num_heads=tuple(dim // 32 * 2**i for i in range(4)),
        window_size=window,
        patch_size=4,
    )


SIZES = {"tiny": (96, 6), "small": (96, 18), "base": (128, 18), "large": (192, 18)}
PRESETS = {
    f"swin_{size}_patch4_window{window}_{side}": preset(*SIZES[size], window, side)
    for window, side, sizes in ((7, 224, SIZES), (12, 384, ("base", "large")))
    for size in sizes
}
CASES = [
    Case("swin", "SwinTransformerBackbone", config(24, 12, 3), images(2, 24, 12, 3)),
    # Windows that do not fill the stages, and patches that do not fill the image.
    Case(
        "swin-filled",
        "SwinTransformerBackbone",
        config(
            26,
            49,
            1,
            depths=(2, 0, 3),
            num_heads=(1, 3, 4),  # the second has no blocks
            embed_dim=4,
            window_size=2,
            patch_size=3,
            mlp_ratio=2.6,
            qkv_bias=False,
            patch_norm=False,
            drop_path=0.3,
            data_format="channels_last",
        ),
        images(1, 26, 49, 1),
    ),
    Case(
        "swin-one",
        "SwinTransformerBackbone",
        config(
            14,
            10,
            5,
            depths=(3,),
            num_heads=(3,),
            window_size=4,
            mlp_ratio=0.1,
            dropout_rate=0.1,
            attention_dropout=0.2,
            drop_path=0.0,
        ),
        images(3, 14, 10, 5),
    ),
]
