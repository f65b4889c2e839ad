from __future__ import annotations

from typing import Any

from ..oracle import Case
from .resnet import images

SMALL = {
    "stackwise_num_blocks": [2, 3, 2, 3],
    "stackwise_kernel_size": [[3, 3], [5, 5, 5], [5, 5], [5, 5, 5]],
    "stackwise_num_strides": [[2, 1], [2, 1, 1], [1, 1], [2, 1, 1]],
    "stackwise_se_ratio": [[None] * 2, [0.25] * 3, [0.25] * 2, [0.25] * 3],
    "stackwise_activation": [["relu"] * 2, *([["hard_swish"] * n for n in (3, 2, 3)])],
    "stackwise_padding": [[1, 1], [2, 2, 2], [2, 2], [2, 2, 2]],
    "output_num_filters": 1024,
    "input_num_filters": 16,
    "depthwise_stride": 2,
    "depthwise_residual": False,
    "squeeze_and_excite": 0.5,
}
SMALL_050 = {
    **SMALL,
    "stackwise_expansion": [[40, 56], [64, 144, 144], [72, 72], [144, 288, 288]],
    "stackwise_num_filters": [[16] * 2, [24] * 3, [24] * 2, [48] * 3],
    "depthwise_filters": 8,
    "last_layer_filter": 288,
}
SMALL_100 = {
    **SMALL,
    "stackwise_expansion": [[72, 88], [96, 240, 240], [120, 144], [288, 576, 576]],
    "stackwise_num_filters": [[24] * 2, [40] * 3, [48] * 2, [96] * 3],
    "depthwise_filters": 16,
    "last_layer_filter": 576,
}
LARGE_100 = {
    "stackwise_expansion": [
        [64, 72],
        [72, 120, 120],
        [240, 200, 184, 184],
        [480, 672],
        [672, 960, 960],
    ],
    "stackwise_num_blocks": [2, 3, 4, 2, 3],
    "stackwise_num_filters": [[24] * 2, [40] * 3, [80] * 4, [112] * 2, [160] * 3],
    "stackwise_kernel_size": [[3] * 2, [5] * 3, [3] * 4, [3] * 2, [5] * 3],
    "stackwise_num_strides": [[2, 1], [2, 1, 1], [2, 1, 1, 1], [1, 1], [2, 1, 1]],
    "stackwise_se_ratio": [[None] * 2, [0.25] * 3, [None] * 4, [0.25] * 2, [0.25] * 3],
    "stackwise_activation": [
        ["relu"] * 2,
        ["relu"] * 3,
        *([["hard_swish"] * n for n in (4, 2, 3)]),
    ],
    "stackwise_padding": [[1] * 2, [2] * 3, [1] * 4, [1] * 2, [2] * 3],
    "output_num_filters": 1024,
    "input_num_filters": 16,
    "depthwise_filters": 16,
    "depthwise_stride": 1,
    "depthwise_residual": True,
    "squeeze_and_excite": None,
    "last_layer_filter": 960,
}
PRESETS: dict[str, dict[str, Any]] = {
    "mobilenet_v3_small_050_imagenet": SMALL_050,
    "mobilenet_v3_small_100_imagenet": SMALL_100,
    "mobilenet_v3_large_100_imagenet": LARGE_100,
    "mobilenet_v3_large_100_imagenet_21k": LARGE_100,
}


def config(**others: Any) -> dict[str, Any]:
    return {
        "stackwise_expansion": [[20, 24], [40]],
        "stackwise_num_blocks": [2, 1],
        "stackwise_num_filters": [[16, 15], [24]],
        "stackwise_kernel_size": [[3, 5], [3]],
        "stackwise_num_strides": [[2, 1], [2]],
        "stackwise_se_ratio": [[None, 0.25], [0.3]],
        "stackwise_activation": [["relu", "hard_swish"], ["relu6"]],
        "stackwise_padding": [[1, 2], [1]],
        "output_num_filters": 64,
        "depthwise_filters": 12,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "last_layer_filter": 30,
        "squeeze_and_excite": 0.5,
        **others,
    }


CASES = [
    Case("mobilenet-small", "MobileNetBackbone", config(), images(2, 65, 58)),
    Case(
        "mobilenet-large",
        "MobileNetBackbone",
        config(
            squeeze_and_excite=None,
            depthwise_filters=16,
            depthwise_stride=1,
            depthwise_residual=True,
            output_num_filters=None,
            stackwise_se_ratio=[[0, None], [0.5]],
            image_shape=(40, 47, 5),
            input_activation="relu6",
            output_activation="relu",
        ),
        images(1, 40, 47, 5),
    ),
    Case(
        "mobilenet-padding",
        "MobileNetBackbone",
        config(
            input_num_filters=24,
            stackwise_kernel_size=[[4, 1], [5]],
            stackwise_padding=[[0, 0], [3]],
            stackwise_num_strides=[[3, 1], [1]],
            image_shape=(None, None, 1),
            last_layer_filter=3,
        ),
        images(2, 70, 59, 1),
    ),
]
