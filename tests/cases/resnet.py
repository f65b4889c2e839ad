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


def preset(
    depth: int, block_type: str = "bottleneck_block", v2: bool = False, vd: bool = False
) -> dict[str, Any]:
    blocks = {
        18: [2, 2, 2, 2],
        34: [3, 4, 6, 3],
        50: [3, 4, 6, 3],
        101: [3, 4, 23, 3],
        152: [3, 8, 36, 3],
        200: [3, 12, 48, 3],
    }
    return {
        "input_conv_filters": [32, 32, 64] if vd else [64],
        "input_conv_kernel_sizes": [3, 3, 3] if vd else [7],
        "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_blocks": blocks[depth],
        "stackwise_num_strides": [1, 2, 2, 2],
        "block_type": f"{block_type}_vd" if vd else block_type,
        "use_pre_activation": v2,
    }


PRESETS = {
    "resnet_18_imagenet": preset(18, "basic_block"),
    "resnet_50_imagenet": preset(50),
    "resnet_101_imagenet": preset(101),
    "resnet_152_imagenet": preset(152),
    "resnet_v2_50_imagenet": preset(50, v2=True),
    "resnet_v2_101_imagenet": preset(101, v2=True),
    "resnet_vd_18_imagenet": preset(18, "basic_block", vd=True),
    "resnet_vd_34_imagenet": preset(34, "basic_block", vd=True),
    "resnet_vd_50_imagenet": preset(50, vd=True),
    "resnet_vd_50_ssld_imagenet": preset(50, vd=True),
    "resnet_vd_50_ssld_v2_imagenet": preset(50, vd=True),
    "resnet_vd_50_ssld_v2_fix_imagenet": preset(50, vd=True),
    "resnet_vd_101_imagenet": preset(101, vd=True),
    "resnet_vd_101_ssld_imagenet": preset(101, vd=True),
    "resnet_vd_152_imagenet": preset(152, vd=True),
    "resnet_vd_200_imagenet": preset(200, vd=True),
}
# The registry has v1's numbers for v2, and counts the classifier of vd.
MISCOUNTED = {
    "resnet_v2_50_imagenet": 15360,
    "resnet_v2_101_imagenet": 15360,
    **{preset_id: 2049000 for preset_id in PRESETS if "_vd_" in preset_id},
    **{f"resnet_vd_{depth}_imagenet": 513000 for depth in (18, 34)},
}
