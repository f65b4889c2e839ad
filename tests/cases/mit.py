from __future__ import annotations

from typing import Any

from ..oracle import Case
from .vit import images


def config(*image_shape: int | None, **others: Any) -> dict[str, Any]:
    return {
        "layerwise_depths": [1, 2],
        "num_layers": 2,
        "layerwise_num_heads": [1, 2],
        "layerwise_sr_ratios": [2, 1],
        "max_drop_path_rate": 0.1,
        "layerwise_patch_sizes": [7, 3],
        "layerwise_strides": [4, 2],
        "image_shape": image_shape,
        "hidden_dims": [4, 6],
        **others,
    }


SIZES = {
    "b0": (2, 2, 2, 2),
    "b1": (2, 2, 2, 2),
    "b2": (3, 4, 6, 3),
    "b3": (3, 4, 18, 3),
    "b4": (3, 8, 27, 3),
    "b5": (3, 6, 40, 3),
}


def preset(size: str, side: int) -> dict[str, Any]:
    return config(
        side,
        side,
        3,
        layerwise_depths=list(SIZES[size]),
        num_layers=4,
        layerwise_num_heads=[1, 2, 5, 8],
        layerwise_sr_ratios=[8, 4, 2, 1],
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        hidden_dims=[32, 64, 160, 256] if size == "b0" else [64, 128, 320, 512],
    )


NAMES = (
    *(f"{size}_ade20k_{640 if size == 'b5' else 512}" for size in SIZES),
    *(f"{size}_cityscapes_1024" for size in SIZES),
)
PRESETS = {f"mit_{name}": preset(name[:2], int(name.rpartition("_")[2])) for name in NAMES}
# Heads of 10 classes are counted in.
MISCOUNTED = {name: 10 * (arguments["hidden_dims"][-1] + 1) for name, arguments in PRESETS.items()}
CASES = [
    Case("mit", "MiTBackbone", config(24, 24, 3), images(2, 24, 24, 3)),
    Case(
        "mit-three",
        "MiTBackbone",
        config(
            36,
            36,
            1,
            layerwise_depths=[2, 0, 1, 1],
            num_layers=3,
            layerwise_num_heads=[2, 5, 3, 1],
            layerwise_sr_ratios=[3, 14, 2, 1],  # the second has no blocks
            layerwise_patch_sizes=[5, 1, 3, 3],
            layerwise_strides=[3, 1, 2, 2],
            hidden_dims=[6, 5, 9, 4],
            max_drop_path_rate=0,
        ),
        images(1, 36, 36, 1),
    ),
    # Strides that do not divide the image: the map is 2 × 2, and KerasHub's 1 × 1 of 24 channels.
    Case("mit-odd", "MiTBackbone", config(12, 12, 4), images(3, 12, 12, 4)),
]
