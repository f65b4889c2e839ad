from __future__ import annotations

from typing import Any

from ..oracle import Case
from .resnet import images

PRESETS: dict[str, dict[str, Any]] = {
    f"vgg_{depth}_imagenet": {
        "stackwise_num_repeats": repeats,
        "stackwise_num_filters": [64, 128, 256, 512, 512],
    }
    for depth, repeats in {
        11: [1, 1, 2, 2, 2],
        13: [2, 2, 2, 2, 2],
        16: [2, 2, 3, 3, 3],
        19: [2, 2, 4, 4, 4],
    }.items()
}
CASES = [
    Case(
        "vgg",
        "VGGBackbone",
        {"stackwise_num_repeats": [1, 2, 3], "stackwise_num_filters": [5, 8, 7]},
        images(2, 33, 38),
    ),
    Case(
        "vgg-channels",
        "VGGBackbone",
        {
            "stackwise_num_repeats": (2, 1),
            "stackwise_num_filters": (6, 4),
            "image_shape": (None, None, 5),
        },
        images(1, 17, 23, 5),
    ),
    Case(
        "vgg-size",
        "VGGBackbone",
        {
            "stackwise_num_repeats": [1, 1, 1, 1],
            "stackwise_num_filters": [4, 4, 8, 8],
            "image_shape": (39, 47, 1),
        },
        images(1, 39, 47, 1),
    ),
]
