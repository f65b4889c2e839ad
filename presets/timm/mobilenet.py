"""MobileNetV3.

Not that of one kind of activation (`minimal`), of two first blocks (`150d`), nor those with
TensorFlow's padding (`tf_…`): KerasHub computes none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...backbones.layers.convolution import adjust_channels
from ...backbones.mobilenet import MobileNetBackbone
from ..checkpoints.table import Key, Rule, Table, layer, norm, rule, under
from .resnet import CHANNELS_LAST

# Of each stack the kernel, the expansion of each block, channels, stride, squeezed, activation.
SMALL = (
    (3, (4.5, 3.67), 24, 2, None, "relu"),
    (5, (4, 6, 6), 40, 2, 0.25, "hard_swish"),
    (5, (3, 3), 48, 1, 0.25, "hard_swish"),
    (5, (6, 6, 6), 96, 2, 0.25, "hard_swish"),
)
LARGE = (
    (3, (4, 3), 24, 2, None, "relu"),
    (5, (3, 3, 3), 40, 2, 0.25, "relu"),
    (3, (6, 2.5, 2.3, 2.3), 80, 2, None, "hard_swish"),
    (3, (6, 6), 112, 1, 0.25, "hard_swish"),
    (5, (6, 6, 6), 160, 2, 0.25, "hard_swish"),
)


def stacks(rows: Sequence[Any], width: int, multiplier: float) -> dict[str, Any]:
    """The arguments by stack, `width` channels before the first."""
    names = ("expansion", "num_filters", "kernel_size", "num_strides", "se_ratio", "activation")
    found: dict[str, list[Any]] = {f"stackwise_{name}": [] for name in (*names, "padding")}
    for kernel_size, expansions, filters, strides, se_ratio, activation in rows:
        channels = adjust_channels(filters * multiplier)
        count = len(expansions)
        inputs = [width, *[channels] * (count - 1)]
        values = (
            [adjust_channels(size * by) for size, by in zip(inputs, expansions)],
            [channels] * count,
            [kernel_size] * count,
            [strides, *[1] * (count - 1)],
            [se_ratio] * count,
            [activation] * count,
            [kernel_size // 2] * count,
        )
        for stack, value in zip(found.values(), values):
            stack.append(value)
        width = channels
    return {**found, "stackwise_num_blocks": [len(row[1]) for row in rows]}


def variant(rows: Sequence[Any], multiplier: float) -> dict[str, Any]:
    small = rows is SMALL
    width = adjust_channels(16 * multiplier)
    return {
        **stacks(rows, width, multiplier),
        "input_num_filters": 16 if multiplier < 0.75 else width,
        "input_activation": "hard_swish",
        "depthwise_filters": width,
        "depthwise_stride": 2 if small else 1,
        "depthwise_residual": not small,
        "squeeze_and_excite": 0.5 if small else None,
        "output_num_filters": 1024,
        "last_layer_filter": adjust_channels(rows[-1][2] * 6 * multiplier),
    }


# They are for a classifier.
UNUSED = Key({}, ("output_num_filters", "output_activation"), lambda: (), lambda *_: ())
# timm's model keeps a part of its head where there are no classes, and reads a checkpoint without
# it only as one of another number of classes.
WITHOUT_HEAD = Key(
    {"num_classes": None, "model_args.num_classes": None, "pretrained_cfg.classifier": None},
    (),
    lambda *values: (),
    lambda: (-1, 0, "classifier"),
)
SQUEEZE = (*layer("se.conv_reduce", "se.conv_reduce"), *layer("se.conv_expand", "se.conv_expand"))


def pair(theirs: tuple[str, str], ours: tuple[str, str]) -> tuple[Rule, ...]:
    """A convolution and its norm."""
    return rule(f"{theirs[0]}.weight", f"{ours[0]}.weight"), *norm(theirs[1], ours[1])


MOBILENET = Table(
    backbone=MobileNetBackbone,
    variants={
        "mobilenetv3_small_050": variant(SMALL, 0.5),
        "mobilenetv3_small_075": variant(SMALL, 0.75),
        "mobilenetv3_small_100": variant(SMALL, 1.0),
        "mobilenetv3_large_075": variant(LARGE, 0.75),
        "mobilenetv3_large_100": variant(LARGE, 1.0),
    },
    config=(CHANNELS_LAST, UNUSED, WITHOUT_HEAD),
    weights=(
        *pair(("conv_stem", "bn1"), ("input_conv", "input_batch_norm")),
        *under("blocks.0.0.", "block_0_0.", pair(("conv_dw", "bn1"), ("conv1", "bn1"))),
        *under("blocks.0.0.", "block_0_0.", SQUEEZE),
        *under("blocks.0.0.", "block_0_0.", pair(("conv_pw", "bn2"), ("conv2", "bn2"))),
        *under(
            "blocks.{+1}.{}.",
            "blocks.{}.{}.",
            (
                *pair(("conv_pw", "bn1"), ("conv1", "bn1")),
                *pair(("conv_dw", "bn2"), ("conv2", "bn2")),
                *SQUEEZE,
                *pair(("conv_pwl", "bn3"), ("conv3", "bn3")),
                *pair(("conv", "bn1"), ("conv", "bn")),
            ),
        ),
    ),
    dropped=("*.num_batches_tracked", "conv_head.*", "classifier.*"),
)
TABLES = (MOBILENET,)
