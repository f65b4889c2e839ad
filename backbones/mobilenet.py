"""MobileNetV3 (arXiv:1905.02244): inverted residuals with squeeze and excitation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import Images
from .layers.activations import ActivationInPlace
from .layers.convolution import (
    BatchNormalization,
    Conv2D,
    adjust_channels,
    channels_back,
    channels_first,
)
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.vision import (
    check_at_least,
    check_equally_long,
    check_images,
    image_channels,
    smallest_side,
)


def norm(channels: int) -> BatchNormalization:
    return BatchNormalization(channels, epsilon=1e-5, momentum=0.9)


def pointwise(channels: int, filters: int) -> Conv2D:
    return Conv2D(channels, filters, 1, use_bias=False)


def depthwise(channels: int, kernel_size: int, strides: int, padding: int) -> Conv2D:
    """A grouped convolution, as in Keras."""
    return Conv2D(
        channels, channels, kernel_size, strides, padding, groups=channels, use_bias=False
    )


class SqueezeAndExcite2D(Layer):
    """Channels weighted by what the whole map says of them (arXiv:1709.01507)."""

    layout = Layout(prefix="{}_")

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        squeezed = adjust_channels(channels * ratio)
        self.conv_reduce = Conv2D(channels, squeezed, 1)
        self.act = nn.ReLU()
        self.conv_expand = Conv2D(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squeezed = self.act(self.conv_reduce(x.mean((2, 3), keepdim=True)))
        return x * self.gate(self.conv_expand(squeezed))


class DepthwiseConvBlock(Layer):
    """A 3 × 3 convolution of each channel by itself, then one of single pixels."""

    layout = Layout(
        prefix="{}_",
        names={"se": "squeeze_excite"},
        attributes={
            "bn1": "batch_normalization1",
            "bn2": "batch_normalization2",
            "se": "se_layer",
        },
    )

    def __init__(
        self, channels: int, filters: int, strides: int, se_ratio: float | None, residual: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.conv1, self.bn1 = depthwise(channels, 3, strides, padding=1), norm(channels)
        self.act = nn.ReLU(inplace=True)
        self.se = SqueezeAndExcite2D(channels, se_ratio) if se_ratio else nn.Identity()
        self.conv2, self.bn2 = pointwise(channels, filters), norm(filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.se(self.act(self.bn1(self.conv1(x))))
        y = self.bn2(self.conv2(y))
        return x + y if self.residual else y


class InvertedResidualBlock(Layer):
    """To more channels, each of them by itself, and back; a sum if the shape stays the same."""

    layout = Layout(
        prefix="{}_",
        attributes={
            "bn1": "batch_normalization1",
            "bn2": "batch_normalization2",
            "bn3": "batch_normalization3",
            "se": "squeeze_excite",
        },
    )

    def __init__(
        self,
        channels: int,
        expanded: int,
        filters: int,
        kernel_size: int,
        strides: int,
        se_ratio: float | None,
        activation: str,
        padding: int,
    ) -> None:
        super().__init__()
        self.residual = strides == 1 and channels == filters
        self.conv1, self.bn1 = pointwise(channels, expanded), norm(expanded)
        self.act = ActivationInPlace(activation)
        self.conv2 = depthwise(expanded, kernel_size, strides, padding)
        self.bn2 = norm(expanded)
        self.se = SqueezeAndExcite2D(expanded, se_ratio) if se_ratio else nn.Identity()
        self.conv3, self.bn3 = pointwise(expanded, filters), norm(filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.bn1(self.conv1(x)))
        y = self.se(self.act(self.bn2(self.conv2(y))))
        y = self.bn3(self.conv3(y))
        return x + y if self.residual else y


class ConvBnActBlock(Layer):
    """A convolution of single pixels."""

    layout = Layout(prefix="{}_", attributes={"bn": "batch_normalization"})

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.conv, self.bn = pointwise(channels, filters), norm(filters)
        self.act = nn.Hardswish()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class MobileNetBackbone(Backbone):
    """Convolutional network for phones.

    Images `[batch, height, width, channels]` → `[batch, height / 32, width / 32,
    last_layer_filter]` in the published models.

    Numbers of channels are rounded to multiples of 8, but for `depthwise_filters`.

    Args:
        stackwise_expansion: channels within each inverted residual, by stack.
        stackwise_num_blocks: inverted residuals of each stack.
        stackwise_num_filters: channels that each of them gives.
        stackwise_kernel_size: side of its depthwise convolution in pixels.
        stackwise_num_strides: stride of it.
        stackwise_se_ratio: of its channels those that are left when squeezed; 0 or `None` for no
            squeeze and excitation.
        stackwise_activation: its activation.
        stackwise_padding: zeros on each side of its depthwise convolution, in pixels.
        output_num_filters: of a classifier, not used here.
        depthwise_filters: channels that the first block, after the stem, gives.
        depthwise_stride: its stride.
        depthwise_residual: whether its input is added.
        last_layer_filter: channels of the last convolution.
        squeeze_and_excite: as `stackwise_se_ratio`, of the first block.
        image_shape: height, width and channels; only the channels have an effect, and `None` of
            them is 3.
        input_activation: that of the stem.
        output_activation: of a classifier, not used here.
        input_num_filters: channels of the stem.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: stackwise arguments of different lengths, an unknown activation, an input that
            cannot be added since a stride, channels or padding change its shape, or images that are
            too small or of other channels than those of `image_shape`.
    """

    def __init__(
        self,
        stackwise_expansion: Sequence[Sequence[float]],
        stackwise_num_blocks: Sequence[int],
        stackwise_num_filters: Sequence[Sequence[float]],
        stackwise_kernel_size: Sequence[Sequence[int]],
        stackwise_num_strides: Sequence[Sequence[int]],
        stackwise_se_ratio: Sequence[Sequence[float | None]],
        stackwise_activation: Sequence[Sequence[str]],
        stackwise_padding: Sequence[Sequence[int]],
        output_num_filters: int | None,
        depthwise_filters: int,
        depthwise_stride: int,
        depthwise_residual: bool,
        last_layer_filter: float,
        squeeze_and_excite: float | None = None,
        image_shape: Sequence[int | None] = (None, None, 3),
        input_activation: str = "hard_swish",
        output_activation: str = "hard_swish",
        input_num_filters: float = 16,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        stackwise: dict[str, Sequence[Sequence[Any]]] = {
            "stackwise_expansion": stackwise_expansion,
            "stackwise_num_filters": stackwise_num_filters,
            "stackwise_kernel_size": stackwise_kernel_size,
            "stackwise_num_strides": stackwise_num_strides,
            "stackwise_se_ratio": stackwise_se_ratio,
            "stackwise_activation": stackwise_activation,
            "stackwise_padding": stackwise_padding,
        }
        check_equally_long(stackwise_num_blocks=stackwise_num_blocks, **stackwise)
        for argument, values in stackwise.items():
            if [len(stack) for stack in values] != list(stackwise_num_blocks):
                raise ValueError(
                    f"{argument}={values} must have a value for each block, by "
                    f"stackwise_num_blocks={stackwise_num_blocks}."
                )
        inputs = depthwise_filters
        for settings in zip(*stackwise.values()):
            for _, filters, kernel_size, strides, _, _, padding in zip(*settings):
                check_at_least(1, stackwise_kernel_size=kernel_size, stackwise_num_strides=strides)
                filters = adjust_channels(filters)
                if (strides, inputs) == (1, filters) and 2 * padding != kernel_size - 1:
                    raise ValueError(
                        f"stackwise_padding={stackwise_padding} must be half of "
                        "stackwise_kernel_size - 1 in blocks that add their input, those of "
                        f"stride 1 that keep the number of channels, not {padding} with a kernel "
                        f"of {kernel_size}."
                    )
                inputs = filters
        self.channels = image_channels(image_shape, "channels_last")
        self.input_num_filters = width = adjust_channels(input_num_filters)
        if depthwise_residual and (depthwise_stride, depthwise_filters) != (1, width):
            raise ValueError(
                f"depthwise_residual=True needs depthwise_stride=1 and depthwise_filters={width} "
                f"as in the stem, not {depthwise_stride} and {depthwise_filters}."
            )
        self.input_conv = Conv2D(self.channels, width, 3, 2, padding=1, use_bias=False)
        self.input_batch_norm = norm(width)
        self.act = ActivationInPlace(input_activation)
        self.block_0_0 = DepthwiseConvBlock(
            width, depthwise_filters, depthwise_stride, squeeze_and_excite, depthwise_residual
        )
        width = depthwise_filters
        stacks: list[Stack] = []
        convolutions = [self.input_conv, self.block_0_0.conv1]
        for i, settings in enumerate(zip(*stackwise.values()), start=1):
            stack = []
            for expansion, filters, kernel_size, strides, se_ratio, act, padding in zip(*settings):
                filters = adjust_channels(filters)
                expanded = adjust_channels(expansion)
                block = InvertedResidualBlock(
                    width, expanded, filters, kernel_size, strides, se_ratio, act, padding
                )
                stack.append(block)
                convolutions.append(block.conv2)
                width = filters
            stacks.append(Stack(f"block_{i}_{{}}", stack))
        last = ConvBnActBlock(width, adjust_channels(last_layer_filter))
        self.blocks = Stack("", [*stacks, Stack(f"block_{len(stacks) + 1}_{{}}", [last])])
        self.smallest = smallest_side(convolutions)

    def forward(self, images: Images) -> torch.Tensor:
        check_images(images, "channels_last", self.channels, at_least=self.smallest)
        x = self.input_conv(channels_first(images, "channels_last"))
        x = self.block_0_0(self.act(self.input_batch_norm(x)))
        for stack in self.blocks:
            for block in stack:
                x = block(x)
        return channels_back(x, "channels_last")
