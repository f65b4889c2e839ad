from __future__ import annotations

from typing import Any

from ..oracle import Case
from .resnet import images

PRESETS: dict[str, dict[str, Any]] = {
    f"densenet_{depth}_imagenet": {"stackwise_num_repeats": repeats}
    for depth, repeats in {
        "121": [6, 12, 24, 16],
        "169": [6, 12, 32, 32],
        "201": [6, 12, 48, 32],
    }.items()
}
CASES = [
    Case(
        "densenet",
        "DenseNetBackbone",
        {"stackwise_num_repeats": [2, 1, 3], "growth_rate": 5},
        images(2, 33, 38),
    ),
    Case(
        "densenet-compression",
        "DenseNetBackbone",
        {
            "stackwise_num_repeats": [1, 2],
            "growth_rate": 3,
            "compression_ratio": 0.37,
            "image_shape": (36, 47, 1),
        },
        images(1, 36, 47, 1),
    ),
    Case(
        "densenet-one-stack",
        "DenseNetBackbone",
        {"stackwise_num_repeats": [2], "growth_rate": 7, "image_shape": (None, None, 5)},
        images(2, 21, 16, 5),
    ),
]
