from __future__ import annotations

from typing import Any

from ..oracle import Case
from .resnet import channels_first, images


def config(**others: Any) -> dict[str, Any]:
    return {
        "stem_filters": 6,
        "stem_kernel_size": 3,
        "stem_strides": 2,
        "stackwise_depth": [1, 2],
        "stackwise_strides": [2],
        "stackwise_num_filters": [8, 12],
        "block_type": "dark_block",
        "stage_type": "csp",
        "block_ratio": [0.5],
        **others,
    }


RESNET = {
    "stem_filters": 64,
    "stem_kernel_size": 7,
    "stem_strides": 4,
    "stem_pooling": "max",
    "stackwise_depth": [3, 3, 5, 2],
    "stackwise_strides": [1, 2, 2, 2],
    "stage_type": "csp",
    "block_type": "bottleneck_block",
    "cross_linear": True,
}
DARKNET = {
    "stem_filters": 32,
    "stem_kernel_size": 3,
    "stem_strides": 1,
    "stem_padding": "same",
    "stackwise_depth": [1, 2, 8, 8, 4],
    "stackwise_strides": [2, 2, 2, 2, 2],
    "stackwise_num_filters": [64, 128, 256, 512, 1024],
    "block_type": "dark_block",
}
PRESETS: dict[str, dict[str, Any]] = {
    "csp_darknet_53_ra_imagenet": {
        **DARKNET,
        "stage_type": "csp",
        "bottle_ratio": [0.5, 1.0],
        "block_ratio": [1.0, 0.5],
        "expand_ratio": [2.0, 1.0],
        "down_growth": True,
    },
    "csp_resnext_50_ra_imagenet": {
        **RESNET,
        "stackwise_num_filters": [256, 512, 1024, 2048],
        "block_ratio": [0.5],
        "groups": 32,
    },
    "csp_resnet_50_ra_imagenet": {
        **RESNET,
        "stackwise_num_filters": [128, 256, 512, 1024],
        "bottle_ratio": [0.5],
        "expand_ratio": [2.0],
    },
    "darknet_53_imagenet": {**DARKNET, "stage_type": "dark", "bottle_ratio": [0.5]},
}
# The registry counts the classifier, and not the moving statistics.
MISCOUNTED = {
    "csp_darknet_53_ra_imagenet": 1025000 - 35328,
    "csp_resnext_50_ra_imagenet": 2049000 - 57472,
    "csp_resnet_50_ra_imagenet": 1025000 - 40320,
    "darknet_53_imagenet": 1025000 - 35712,
}
CASES = [
    Case("cspnet", "CSPNetBackbone", config(), images(2, 33, 38)),
    Case(
        "cspnet-dark",
        "CSPNetBackbone",
        config(
            stage_type="dark",
            block_type="edge_block",
            block_ratio=1,
            bottle_ratio=[0.37, 1.4],
            stem_filters=[5, 4],
            stem_strides=1,
            stem_kernel_size=(3, 5),
            stem_padding="same",
            stackwise_depth=[1, 0, 1],
            stackwise_strides=[1, 3, 2],
            stackwise_num_filters=[7, 5, 9],
            activation="silu",
            image_shape=(None, None, 5),
        ),
        images(1, 40, 34, 5),
    ),
    Case(
        "cspnet-cs3",
        "CSPNetBackbone",
        config(
            stage_type="cs3",
            block_type="bottleneck_block",
            block_ratio=[0.5, 1.0],
            expand_ratio=[1.0, 2.0],
            groups=2,
            stem_filters=[4, 6],
            stem_strides=4,
            stem_padding="same",
            down_growth=True,
            activation="gelu",
            image_shape=(51, 46, 1),
        ),
        images(2, 51, 46, 1),
    ),
    Case(
        "cspnet-pooled",
        "CSPNetBackbone",
        config(
            stem_strides=4,
            stem_kernel_size=5,
            stem_pooling="max",
            avg_down=True,
            cross_linear=True,
            stackwise_depth=[0, 1, 1],
            stackwise_strides=[1, 2, 3],
            stackwise_num_filters=[6, 8, 4],
            output_strides=64,
            bottle_ratio=0.6,
        ),
        images(1, 61, 70),
    ),
    Case(
        "cspnet-channels-first",
        "CSPNetBackbone",
        config(
            stage_type="cs3",
            block_type="edge_block",
            stackwise_strides=[2, 2],
            data_format="channels_first",
            image_shape=(3, None, None),
        ),
        channels_first(2, 37, 40),
    ),
    Case(
        "cspnet-channels-first-averages",
        "CSPNetBackbone",
        config(
            stage_type="dark",
            block_type="bottleneck_block",
            block_ratio=[1.0],
            stem_pooling="max",
            stem_strides=4,
            stackwise_num_filters=[5, 8],
            avg_down=True,
            data_format="channels_first",
            image_shape=(3, None, None),
        ),
        channels_first(1, 49, 40),
    ),
]
