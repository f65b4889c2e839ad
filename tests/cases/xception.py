from __future__ import annotations

from typing import Any

from ..oracle import Case
from .resnet import channels_first, images

PRESETS: dict[str, dict[str, Any]] = {
    "xception_41_imagenet": {
        "stackwise_conv_filters": [
            [32, 64],
            [128, 128],
            [256, 256],
            [728, 728],
            *[[728, 728, 728]] * 8,
            [728, 1024],
            [1536, 2048],
        ],
        "stackwise_pooling": [False, *[True] * 3, *[False] * 8, True, False],
    }
}
CASES = [
    Case(
        "xception",
        "XceptionBackbone",
        {
            "stackwise_conv_filters": [[4, 6], [5, 8], [7, 8], [8, 9], [9, 7]],
            "stackwise_pooling": [False, True, False, True, False],
        },
        images(2, 37, 42),
    ),
    Case(
        "xception-pools",
        "XceptionBackbone",
        {
            "stackwise_conv_filters": [[4], [7], [5]],
            "stackwise_pooling": [True, True, True],
            "image_shape": (50, 45, 1),
        },
        images(1, 50, 45, 1),
    ),
    Case(
        "xception-channels-first",
        "XceptionBackbone",
        {
            "stackwise_conv_filters": [[5, 6], [6, 6], [8, 4]],
            "stackwise_pooling": [True, False, False],
            "data_format": "channels_first",
            "image_shape": (3, None, None),
        },
        channels_first(2, 34, 39),
    ),
]
