"""ResNet: v1 (arXiv:1512.03385), v2 (arXiv:1603.05027) and "vd" (arXiv:1812.01187)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import nn
from torch.nn import functional as F

from ._backbone import FeaturePyramidBackbone
from ._inputs import Images
from .layers.convolution import (
    BatchNormalization,
    Conv2D,
    channels_back,
    channels_first,
    check_data_format,
)
from .layers.dtypes import DTypeLike
from .layers.layout import Layout, Stack

BLOCK_TYPES = ("basic_block", "bottleneck_block", "basic_block_vd", "bottleneck_block_vd")


def norm(channels: int) -> BatchNormalization:
    return BatchNormalization(channels, epsilon=1e-5, momentum=0.9)


def conv(inputs: int, filters: int, kernel_size: int, strides: int = 1) -> Conv2D:
    padding = "same" if strides == 1 else (kernel_size - 1) // 2
    return Conv2D(inputs, filters, kernel_size, strides, padding, use_bias=False)


class Stem(nn.Module):
    """Convolutions, the first of stride 2, each but the last of v2 with norm and ReLU; then a
    3 × 3 max-pool of stride 2. `[b, c, h, w]` → `[b, filters, h / 4, w / 4]`.
    """

    def __init__(
        self, channels: int, filters: Sequence[int], kernel_sizes: Sequence[int], pre_norm: bool
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.num_convs = len(filters)
        weightless = {"conv1_pad": "ZeroPadding2D"}
        for i, (width, kernel_size) in enumerate(zip(filters, kernel_sizes), start=1):
            self.add_module(f"conv{i}_conv", conv(channels, width, kernel_size, 2 if i == 1 else 1))
            if i < self.num_convs or not pre_norm:
                self.add_module(f"conv{i}_bn", norm(width))
                weightless[f"conv{i}_relu"] = "Activation"
            channels = width
        if not pre_norm:
            weightless["pool1_pad"] = "ZeroPadding2D"
        weightless["pool1_pool"] = "MaxPooling2D"
        self.layout = Layout(group="{child}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(1, self.num_convs + 1):
            x = getattr(self, f"conv{i}_conv")(x)
            if i < self.num_convs or not self.pre_norm:
                x = F.relu(getattr(self, f"conv{i}_bn")(x))
        # Padding with -inf; after a ReLU, in v1, it is the same as Keras's zeros.
        return F.max_pool2d(x, 3, 2, padding=1)


class Block(nn.Module):
    """A residual block; `filters` and `kernel_sizes` are those of its convolutions.

    Children stand in the order of Keras's graph, where the shortcut follows the second-to-last
    convolution of the main branch.
    """

    def __init__(
        self,
        channels: int,
        filters: Sequence[int],
        kernel_sizes: Sequence[int],
        strides: int,
        conv_shortcut: bool,
        pre_norm: bool,
        pooled_shortcut: bool,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.strides = strides
        self.num_convs = last = len(filters)
        self.pooled_shortcut = pooled_shortcut and conv_shortcut and not pre_norm and strides > 1
        strided = kernel_sizes.index(3) + 1  # the first convolution that is not 1 × 1
        names: dict[str, str] = {}
        weightless: dict[str, str] = {}
        if pre_norm:
            self.pre_activation_bn = norm(channels)
            weightless["pre_activation_relu"] = "Activation"
        width = channels
        for i in range(1, last + 1):
            if i == last and conv_shortcut:
                step = 1 if pooled_shortcut else strides
                self.conv0 = conv(channels, filters[-1], 1, step)
                names["conv0"] = "0_conv"
            step = strides if i == strided else 1
            self.add_module(f"conv{i}", conv(width, filters[i - 1], kernel_sizes[i - 1], step))
            names[f"conv{i}"] = f"{i}_conv"
            if step > 1:
                weightless[f"{i}_pad"] = "ZeroPadding2D"
            if i == last and conv_shortcut and not pre_norm:
                self.bn0 = norm(filters[-1])
                names["bn0"] = "0_bn"
            if i < last or not pre_norm:
                self.add_module(f"bn{i}", norm(filters[i - 1]))
                names[f"bn{i}"] = f"{i}_bn"
            if i < last:
                weightless[f"{i}_relu"] = "Activation"
            width = filters[i - 1]
        if self.pooled_shortcut:
            weightless["average_pooling2d"] = "AveragePooling2D"
        weightless |= {"out": "Add"} if pre_norm else {"add": "Add", "out": "Activation"}
        self.layout = Layout(
            attributes=names,
            unnamed=("average_pooling2d",),
            group="{group}_{child}",
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        if self.pre_norm:
            x = F.relu(self.pre_activation_bn(x))
        if hasattr(self, "conv0"):
            shortcut = x
            if self.pooled_shortcut:
                # Odd sizes are padded at the end, and only real pixels are averaged.
                shortcut = F.avg_pool2d(shortcut, 2, self.strides, ceil_mode=True)
            shortcut = self.conv0(shortcut)
            if not self.pre_norm:
                shortcut = self.bn0(shortcut)
        for i in range(1, self.num_convs + 1):
            x = getattr(self, f"conv{i}")(x)
            if i < self.num_convs:
                x = F.relu(getattr(self, f"bn{i}")(x))
        if self.pre_norm:
            return shortcut + x
        return F.relu(shortcut + getattr(self, f"bn{self.num_convs}")(x))


class ResNetBackbone(FeaturePyramidBackbone):
    """Residual convolutional network.

    Images `[batch, height, width, channels]` → the last stack's features; `pyramid_outputs` has
    `P2` (a quarter of the image's resolution) and up, one level per stack.

    Args:
        input_conv_filters: channels of the stem's convolutions.
        input_conv_kernel_sizes: their sides in pixels.
        stackwise_num_filters: channels of each stack's 3 × 3 convolutions; the first has 64.
        stackwise_num_blocks: blocks of each stack.
        stackwise_num_strides: stride of each stack's first block.
        block_type: `basic_block` (two 3 × 3 convolutions) or `bottleneck_block` (1 × 1, 3 × 3, and
            1 × 1 to four times the channels); with `_vd` strided shortcuts are averages and 1 × 1
            convolutions.
        use_pre_activation: whether norm and ReLU stand before the convolutions (v2), not behind
            them.
        image_shape: height, width and channels in the order of `data_format`; only the channels
            have an effect, and `None` of them is 3.
        data_format: `channels_last` or `channels_first`, of images and outputs; `None` for the
            first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: stackwise arguments of different lengths, or an unknown block type.
    """

    unsaved: ClassVar = {"data_format": (None, "channels_last")}

    def __init__(
        self,
        input_conv_filters: Sequence[int],
        input_conv_kernel_sizes: Sequence[int],
        stackwise_num_filters: Sequence[int],
        stackwise_num_blocks: Sequence[int],
        stackwise_num_strides: Sequence[int],
        block_type: str,
        use_pre_activation: bool = False,
        image_shape: Sequence[int | None] = (None, None, 3),
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if len(input_conv_filters) != len(input_conv_kernel_sizes):
            raise ValueError(
                f"input_conv_filters={input_conv_filters} and input_conv_kernel_sizes="
                f"{input_conv_kernel_sizes} must be equally long."
            )
        stacks = (stackwise_num_filters, stackwise_num_blocks, stackwise_num_strides)
        if len({len(values) for values in stacks}) != 1:
            raise ValueError(
                f"stackwise_num_filters={stackwise_num_filters}, stackwise_num_blocks="
                f"{stackwise_num_blocks} and stackwise_num_strides={stackwise_num_strides} must be "
                "equally long."
            )
        if stackwise_num_filters[0] != 64:
            raise ValueError(f"stackwise_num_filters={stackwise_num_filters} must begin with 64.")
        if block_type not in BLOCK_TYPES:
            raise ValueError(f"block_type={block_type!r} must be one of {', '.join(BLOCK_TYPES)}.")
        if block_type.endswith("_vd") and use_pre_activation and max(stackwise_num_strides) > 1:
            raise ValueError("A strided shortcut of a vd block cannot have use_pre_activation.")
        self.data_format = check_data_format(data_format)
        channels = image_shape[-1 if self.data_format == "channels_last" else 0] or 3
        bottleneck = block_type.startswith("bottleneck")
        self.stem = Stem(channels, input_conv_filters, input_conv_kernel_sizes, use_pre_activation)
        width = input_conv_filters[-1]
        self.num_stacks = len(stackwise_num_filters)
        for i, (filters, blocks, strides) in enumerate(zip(*stacks)):
            widths = (filters, filters, 4 * filters) if bottleneck else (filters, filters)
            stack = []
            for j in range(blocks):
                shortcut = j == 0 and (block_type != "basic_block" or i > 0)
                step = strides if j == 0 else 1
                kernel_sizes = (1, 3, 1) if bottleneck else (3, 3)
                stack.append(
                    Block(
                        width,
                        widths,
                        kernel_sizes,
                        step,
                        shortcut,
                        use_pre_activation,
                        pooled_shortcut=block_type.endswith("_vd"),
                    )
                )
                width = widths[-1]
            self.add_module(f"stack{i}", Stack(f"stack{i}_block{{}}", stack))
        self.post = PostActivation(width) if use_pre_activation else None

    def pyramid_levels(self) -> list[str]:
        return [f"P{i + 2}" for i in range(self.num_stacks)]

    def forward_pyramid(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(channels_first(images, self.data_format))
        levels = {}
        for i, level in enumerate(self.pyramid_levels()):
            for block in cast(Stack, getattr(self, f"stack{i}")):
                x = block(x)
            levels[level] = channels_back(x, self.data_format)
        return levels

    def forward(self, images: Images) -> torch.Tensor:
        x = self.forward_pyramid(images)[self.pyramid_levels()[-1]]
        if self.post is None:
            return x
        x = self.post(channels_first(x, self.data_format))
        return channels_back(x, self.data_format)


class PostActivation(nn.Module):
    """Norm and ReLU at the end of v2."""

    layout = Layout(group="{child}")

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.post_bn = norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.post_bn(x))
