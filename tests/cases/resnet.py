from __future__ import annotations

from typing import Any

from ..oracle import Case


def images(batch: int, height: int, width: int, channels: int = 3) -> Any:
    return lambda rng: rng.uniform(0, 1, (batch, height, width, channels)).astype("float32")


def channels_first(batch: int, height: int, width: int) -> Any:
    return lambda rng: rng.uniform(0, 1, (batch, 3, height, width)).astype("float32")


def config(block_type: str, **others: Any) -> dict[str, Any]:
    return {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 16],
        "stackwise_num_blocks": [1, 2],
        "stackwise_num_strides": [1, 2],
        "block_type": block_type,
        **others,
    }


VD = {"input_conv_filters": [8, 8, 64], "input_conv_kernel_sizes": [3, 3, 3]}
CASES = [
    Case("resnet-basic", "ResNetBackbone", config("basic_block"), images(2, 33, 38)),
    Case("resnet-bottleneck", "ResNetBackbone", config("bottleneck_block"), images(1, 32, 41)),
    Case(
        "resnet-v2",
        "ResNetBackbone",
        config("bottleneck_block", use_pre_activation=True, image_shape=(40, 36, 3)),
        images(2, 40, 36),
    ),
    Case(
        "resnet-v2-basic",
        "ResNetBackbone",
        config("basic_block", use_pre_activation=True, stackwise_num_blocks=[2, 2]),
        images(1, 47, 30),
    ),
    Case("resnet-vd", "ResNetBackbone", config("bottleneck_block_vd", **VD), images(2, 35, 33)),
    Case(
        "resnet-vd-basic",
        "ResNetBackbone",
        config(
            "basic_block_vd",
            **VD,
            stackwise_num_filters=[64, 8, 24],
            stackwise_num_blocks=[2, 1, 1],
            stackwise_num_strides=[2, 1, 2],
        ),
        images(1, 49, 54),
    ),
    Case(
        "resnet-channels",
        "ResNetBackbone",
        config("basic_block", image_shape=(None, None, 5), stackwise_num_strides=[1, 3]),
        images(1, 40, 44, 5),
    ),
    Case(
        "resnet-channels-first",
        "ResNetBackbone",
        config("basic_block", data_format="channels_first", image_shape=(3, None, None)),
        channels_first(1, 40, 44),
    ),
]
