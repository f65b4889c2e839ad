"""Xception (arXiv:1610.02357)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import Images
from .layers.convolution import (
    BatchNormalization,
    Conv2D,
    SeparableConv2D,
    channels_back,
    channels_first,
    check_data_format,
    max_pool_same,
)
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.vision import check_at_least, check_equally_long, check_images, image_channels


def separable(inputs: int, filters: int) -> SeparableConv2D:
    return SeparableConv2D(inputs, filters, 3, padding="same", use_bias=False)


class MaxPool(Layer):
    """3 × 3 pixels, stride 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return max_pool_same(x, 3, 2)


class EntryBlock(Layer, nn.Sequential):
    """Convolutions without padding, the first of stride 2, each with norm and ReLU."""

    layout = Layout(group="{group}_{child}")

    def __init__(self, channels: int, filters: Sequence[int], pooling: bool) -> None:
        super().__init__()
        for i, width in enumerate(filters, start=1):
            strides = 2 if i == 1 else 1
            self.add_module(f"conv{i}", Conv2D(channels, width, 3, strides, use_bias=False))
            self.add_module(f"conv{i}_bn", BatchNormalization(width))
            self.add_module(f"conv{i}_act", nn.ReLU(inplace=True))
            channels = width
        self.pool = MaxPool() if pooling else nn.Identity()


class ExitBlock(Layer, nn.Sequential):
    """Separable convolutions, each with norm and ReLU."""

    layout = Layout(group="{group}_{child}")

    def __init__(self, channels: int, filters: Sequence[int], pooling: bool) -> None:
        super().__init__()
        for i, width in enumerate(filters, start=1):
            self.add_module(f"sepconv{i}", separable(channels, width))
            self.add_module(f"sepconv{i}_bn", BatchNormalization(width))
            self.add_module(f"sepconv{i}_act", nn.ReLU(inplace=True))
            channels = width
        self.pool = MaxPool() if pooling else nn.Identity()


class PreActivated(Layer, nn.Sequential):
    """ReLUs, the first one optional, each with a separable convolution and norm; then a max-pool,
    if any.
    """

    layout = Layout(group="{child}")

    def __init__(
        self, channels: int, filters: Sequence[int], pooling: bool, activated: bool
    ) -> None:
        super().__init__()
        for i, width in enumerate(filters, start=1):
            if i > 1 or activated:
                # The first one's input is the shortcut's, too.
                self.add_module(f"sepconv{i}_act", nn.ReLU(inplace=i > 1))
            self.add_module(f"sepconv{i}", separable(channels, width))
            self.add_module(f"sepconv{i}_bn", BatchNormalization(width))
            channels = width
        self.pool = MaxPool() if pooling else nn.Identity()


class ResidualBlock(Layer):
    """Separable convolutions beside a shortcut, which is a 1 × 1 convolution of stride 2 where they
    are pooled.
    """

    layout = Layout(group="{group}_{child}")

    def __init__(
        self, channels: int, filters: Sequence[int], pooling: bool, activated: bool = True
    ) -> None:
        super().__init__()
        self.convs = PreActivated(channels, filters, pooling, activated)
        self.residual_conv: nn.Module = nn.Identity()
        self.residual_bn: nn.Module = nn.Identity()
        if pooling:
            self.residual_conv = Conv2D(channels, filters[-1], 1, 2, use_bias=False)
            self.residual_bn = BatchNormalization(filters[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x) + self.residual_bn(self.residual_conv(x))


class XceptionBackbone(Backbone):
    """Convolutional network of depthwise separable convolutions.

    Images `[batch, height, width, channels]` → features `[batch, height / 2ⁿ, width / 2ⁿ, filters]`
    for n - 1 pools.

    Args:
        stackwise_conv_filters: channels of the convolutions of each block. Those of the first block
            are full ones, all others separable; all blocks but the first and the last have a
            shortcut.
        stackwise_pooling: whether each block ends with a max-pool of stride 2; one with a shortcut
            does exactly if it changes the number of channels.
        image_shape: height, width and channels in the order of `data_format`; only the channels
            have an effect, and `None` of them is 3.
        data_format: `channels_last` or `channels_first`, of images and outputs; `None` for the
            first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: stackwise arguments of different lengths or none, no channels, pooling that does
            not go with their number, or images that are too small, or of other channels than those
            of `image_shape`.
    """

    unsaved: ClassVar = {"data_format": (None, "channels_last")}

    def __init__(
        self,
        stackwise_conv_filters: Sequence[Sequence[int]],
        stackwise_pooling: Sequence[bool],
        image_shape: Sequence[int | None] = (None, None, 3),
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_equally_long(
            stackwise_conv_filters=stackwise_conv_filters, stackwise_pooling=stackwise_pooling
        )
        if not stackwise_conv_filters:
            raise ValueError("stackwise_conv_filters must have at least one block, not [].")
        self.data_format = check_data_format(data_format)
        self.channels = image_channels(image_shape, self.data_format)
        # Each of the first block's convolutions takes two pixels, all but one behind a stride of 2.
        self.smallest = max(1, 4 * len(stackwise_conv_filters[0]) - 1)
        width, last = self.channels, len(stackwise_pooling) - 1
        blocks: list[nn.Module] = []
        for i, (filters, pooling) in enumerate(zip(stackwise_conv_filters, stackwise_pooling)):
            check_at_least(1, **{f"stackwise_conv_filters[{i}]": filters})
            out = filters[-1] if filters else width
            if i == 0:
                blocks.append(EntryBlock(width, filters, pooling))
            elif i == last:
                blocks.append(ExitBlock(width, filters, pooling))
            elif pooling == (out != width):
                blocks.append(ResidualBlock(width, filters, pooling, activated=i > 1))
            else:
                raise ValueError(
                    f"stackwise_pooling[{i}] must be {not pooling}: the block's shortcut has "
                    f"{width} channels, and stackwise_conv_filters[{i}] leads to {out}."
                )
            width = out
        self.blocks = Stack("block{}", blocks, start=1)

    def forward(self, images: Images) -> torch.Tensor:
        check_images(images, self.data_format, self.channels, at_least=self.smallest)
        x = channels_first(images, self.data_format)
        for block in self.blocks:
            x = block(x)
        return channels_back(x, self.data_format)
