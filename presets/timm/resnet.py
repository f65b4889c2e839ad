"""ResNet, ResNet-D and ResNet V2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...backbones.resnet import ResNetBackbone
from ..checkpoints.table import Key, Rule, Table, norm, rule, under

BASIC = {"18": [2, 2, 2, 2], "34": [3, 4, 6, 3]}
BOTTLENECK = {
    "26": [2, 2, 2, 2],
    "50": [3, 4, 6, 3],
    "101": [3, 4, 23, 3],
    "152": [3, 8, 36, 3],
    "200": [3, 24, 36, 3],
}
V2_BOTTLENECK = {depth: BOTTLENECK[depth] for depth in ("50", "101", "152")}


def variants(
    name: str, depths: Mapping[str, list[int]], block_type: str, stem: Sequence[int] = (64,)
) -> dict[str, dict[str, Any]]:
    return {
        name.format(depth): {
            "input_conv_filters": list(stem),
            "input_conv_kernel_sizes": [7] if len(stem) == 1 else [3] * len(stem),
            "stackwise_num_filters": [64, 128, 256, 512],
            "stackwise_num_blocks": blocks,
            "stackwise_num_strides": [1, 2, 2, 2],
            "block_type": block_type,
            "use_pre_activation": name.startswith("resnetv2"),
        }
        for depth, blocks in depths.items()
    }


def load_channels(given: int | None, size: Sequence[int]) -> tuple[Any, ...]:
    return ((None, None, given or size[0]),)


def save_channels(shape: Sequence[int], data_format: str | None = None) -> tuple[Any, ...]:
    """Its height and width are what our model was made for; timm takes any."""
    channels = shape[0 if data_format == "channels_first" else -1] or 3
    return () if channels == 3 else (channels,)


CHANNELS = Key(
    {"model_args.in_chans": None, "pretrained_cfg.input_size": (3, 224, 224)},
    ("image_shape", "data_format"),
    load_channels,
    save_channels,
)
# Of models that have no data_format.
CHANNELS_LAST = replace(CHANNELS, ours=("image_shape",))


def pair(conv: str, batch_norm: str, ours: tuple[str, str]) -> tuple[Rule, ...]:
    """A convolution and its norm."""
    return rule(f"{conv}.weight", f"{ours[0]}.weight"), *norm(batch_norm, ours[1])


def stack(conv: str, batch_norm: str) -> tuple[Rule, ...]:
    """Blocks; the names are the shortcut's."""
    block = (
        *pair(conv, batch_norm, ("conv0", "bn0")),
        *(one for i in (1, 2, 3) for one in pair(f"conv{i}", f"bn{i}", (f"conv{i}", f"bn{i}"))),
    )
    return under("layer{+1}.{}.", "stack{}.{}.", block)


HEADS = ("*.num_batches_tracked", "fc.*", "head.fc.*")
V1 = Table(
    backbone=ResNetBackbone,
    variants={
        **variants("resnet{}", BASIC, "basic_block"),
        **variants("resnet{}", BOTTLENECK, "bottleneck_block"),
    },
    config=(CHANNELS,),
    weights=(
        *pair("conv1", "bn1", ("stem.conv1_conv", "stem.conv1_bn")),
        *stack("downsample.0", "downsample.1"),
    ),
    dropped=HEADS,
)
# There are no basic blocks: timm gives the first of them no shortcut, KerasHub gives it one.
VD = Table(
    backbone=ResNetBackbone,
    variants=variants("resnet{}d", BOTTLENECK, "bottleneck_block_vd", stem=(32, 32, 64)),
    config=(CHANNELS,),
    weights=(
        *pair("conv1.0", "conv1.1", ("stem.conv1_conv", "stem.conv1_bn")),
        *pair("conv1.3", "conv1.4", ("stem.conv2_conv", "stem.conv2_bn")),
        *pair("conv1.6", "bn1", ("stem.conv3_conv", "stem.conv3_bn")),
        *stack("downsample.1", "downsample.2"),
    ),
    dropped=HEADS,
)
V2_BLOCK = (
    *norm("norm1", "pre_activation_bn"),
    *pair("conv1", "norm2", ("conv1", "bn1")),
    *pair("conv2", "norm3", ("conv2", "bn2")),
    rule("conv3.weight", "conv3.weight"),
    rule("downsample.conv.weight", "conv0.weight"),
)
V2 = Table(
    backbone=ResNetBackbone,
    variants={
        **variants("resnetv2_{}", BASIC, "basic_block"),
        **variants("resnetv2_{}", V2_BOTTLENECK, "bottleneck_block"),
    },
    config=(CHANNELS,),
    weights=(
        rule("stem.conv.weight", "stem.conv1_conv.weight"),
        *under("stages.{}.blocks.{}.", "stack{}.{}.", V2_BLOCK),
        *norm("norm", "post.post_bn"),
    ),
    dropped=HEADS,
)
TABLES = (V1, VD, V2)
