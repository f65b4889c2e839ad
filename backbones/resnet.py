"""ResNet: v1 (arXiv:1512.03385), v2 (arXiv:1603.05027) and "vd" (arXiv:1812.01187)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeAlias

import torch
from torch import nn

from ._backbone import FeaturePyramidBackbone
from ._inputs import Images
from .layers.convolution import (
    AveragePoolSame,
    BatchNormalization,
    Conv2D,
    channels_back,
    channels_first,
    check_data_format,
)
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.pyramid import Level
from .layers.vision import (
    check_at_least,
    check_choice,
    check_equally_long,
    check_images,
    image_channels,
)

# Pooling, 1 × 1 convolution and norm; without a convolution a block's input is added as it is.
Shortcut: TypeAlias = tuple[nn.Module, Conv2D | None, nn.Module]


def norm(channels: int) -> BatchNormalization:
    return BatchNormalization(channels, epsilon=1e-5, momentum=0.9)


def conv(inputs: int, filters: int, kernel_size: int, strides: int = 1) -> Conv2D:
    padding = "same" if strides == 1 else (kernel_size - 1) // 2
    return Conv2D(inputs, filters, kernel_size, strides, padding, use_bias=False)


def project(inputs: int, filters: int, strides: int, pooled: bool) -> Shortcut:
    if pooled and strides > 1:
        return AveragePoolSame(strides), conv(inputs, filters, 1), norm(filters)
    return nn.Identity(), conv(inputs, filters, 1, strides), norm(filters)


def unchanged() -> Shortcut:
    return nn.Identity(), None, nn.Identity()


class Stem(Layer, nn.Sequential):
    """Convolutions, the first of stride 2, each but the last of v2 with norm and ReLU; then a
    3 × 3 max-pool of stride 2. `[b, c, h, w]` → `[b, filters, h / 4, w / 4]`.
    """

    layout = Layout(group="{child}")

    def __init__(
        self, channels: int, filters: Sequence[int], kernel_sizes: Sequence[int], pre_act: bool
    ) -> None:
        super().__init__()
        for i, (width, kernel_size) in enumerate(zip(filters, kernel_sizes), start=1):
            self.add_module(f"conv{i}_conv", conv(channels, width, kernel_size, 2 if i == 1 else 1))
            if i < len(filters) or not pre_act:
                self.add_module(f"conv{i}_bn", norm(width))
                self.add_module(f"conv{i}_relu", nn.ReLU(inplace=True))
            channels = width
        # Its padding is -inf; after a ReLU, in v1, that is the same as Keras's zeros.
        self.pool = nn.MaxPool2d(3, 2, padding=1)


class Block(Layer):
    """What residual blocks share.

    Keras counts the shortcut's convolution before the last one and their norms after both; so do
    the constructors.
    """

    layout = Layout(
        attributes={f"{kind}{i}": f"{i}_{kind}" for kind in ("conv", "bn") for i in range(4)},
        group="{group}_{child}",
    )
    expansion = 1


class BasicBlock(Block):
    """Two 3 × 3 convolutions; `activated` says whether the ReLU after the sum follows."""

    def __init__(self, channels: int, filters: int, strides: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(channels, filters, 3, strides), norm(filters)
        self.pool0, self.conv0, bn0 = shortcut
        self.conv2 = conv(filters, filters, 3)
        self.bn0, self.bn2 = bn0, norm(filters)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor, activated: bool = True) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.conv0 is not None:
            x = self.bn0(self.conv0(self.pool0(x)))
        y += x
        return self.relu(y) if activated else y


class BottleneckBlock(Block):
    """1 × 1, 3 × 3 and 1 × 1, the last one four times as wide; `activated` as in `BasicBlock`."""

    expansion = 4

    def __init__(self, channels: int, filters: int, strides: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(channels, filters, 1), norm(filters)
        self.conv2, self.bn2 = conv(filters, filters, 3, strides), norm(filters)
        self.pool0, self.conv0, bn0 = shortcut
        self.conv3 = conv(filters, 4 * filters, 1)
        self.bn0, self.bn3 = bn0, norm(4 * filters)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor, activated: bool = True) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.conv0 is not None:
            x = self.bn0(self.conv0(self.pool0(x)))
        y += x
        return self.relu(y) if activated else y


class PreActBasicBlock(Block):
    """As `BasicBlock`, norm and ReLU before the convolutions and nothing after the sum."""

    def __init__(self, channels: int, filters: int, strides: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.pre_activation_bn = norm(channels)
        self.conv1, self.bn1 = conv(channels, filters, 3, strides), norm(filters)
        self.conv0 = shortcut[1]
        self.conv2 = conv(filters, filters, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.pre_activation_bn(x))
        if self.conv0 is not None:
            x = self.conv0(y)
        y = self.conv2(self.relu(self.bn1(self.conv1(y))))
        y += x
        return y


class PreActBottleneckBlock(Block):
    """As `BottleneckBlock`, norm and ReLU before the convolutions and nothing after the sum."""

    expansion = 4

    def __init__(self, channels: int, filters: int, strides: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.pre_activation_bn = norm(channels)
        self.conv1, self.bn1 = conv(channels, filters, 1), norm(filters)
        self.conv2, self.bn2 = conv(filters, filters, 3, strides), norm(filters)
        self.conv0 = shortcut[1]
        self.conv3 = conv(filters, 4 * filters, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.pre_activation_bn(x))
        if self.conv0 is not None:
            x = self.conv0(y)
        y = self.relu(self.bn1(self.conv1(y)))
        y = self.conv3(self.relu(self.bn2(self.conv2(y))))
        y += x
        return y


# By name, without and with `use_pre_activation`.
BLOCKS: dict[str, tuple[type[Block], type[Block]]] = {
    "basic_block": (BasicBlock, PreActBasicBlock),
    "bottleneck_block": (BottleneckBlock, PreActBottleneckBlock),
    "basic_block_vd": (BasicBlock, PreActBasicBlock),
    "bottleneck_block_vd": (BottleneckBlock, PreActBottleneckBlock),
}


class PostActivation(Layer, nn.Sequential):
    """Norm and ReLU at the end of v2."""

    layout = Layout(group="{child}")

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.post_bn = norm(channels)
        self.post_relu = nn.ReLU(inplace=True)


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
        ValueError: stackwise arguments of different lengths, an unknown block type, or images of
            other channels than those of `image_shape`.
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
        check_equally_long(
            input_conv_filters=input_conv_filters, input_conv_kernel_sizes=input_conv_kernel_sizes
        )
        check_equally_long(
            stackwise_num_filters=stackwise_num_filters,
            stackwise_num_blocks=stackwise_num_blocks,
            stackwise_num_strides=stackwise_num_strides,
        )
        if stackwise_num_filters[0] != 64:
            raise ValueError(f"stackwise_num_filters={stackwise_num_filters} must begin with 64.")
        check_at_least(1, stackwise_num_strides=stackwise_num_strides)
        check_choice(BLOCKS, block_type=block_type)
        vd = block_type.endswith("_vd")
        if vd and use_pre_activation and max(stackwise_num_strides) > 1:
            raise ValueError("A strided shortcut of a vd block cannot have use_pre_activation.")
        self.data_format = check_data_format(data_format)
        self.channels = image_channels(image_shape, self.data_format)
        self.stem = Stem(
            self.channels, input_conv_filters, input_conv_kernel_sizes, use_pre_activation
        )
        block = BLOCKS[block_type][use_pre_activation]
        inputs, stride = input_conv_filters[-1], 4
        self.levels: list[Level] = []
        for i, (filters, blocks, strides) in enumerate(
            zip(stackwise_num_filters, stackwise_num_blocks, stackwise_num_strides)
        ):
            width = block.expansion * filters
            plain = i == 0 and block_type == "basic_block"
            if plain and inputs != width:
                raise ValueError(f"input_conv_filters={input_conv_filters} must end with {width}.")
            shortcut = unchanged() if plain else project(inputs, width, strides, pooled=vd)
            stack = [block(inputs, filters, strides, shortcut)]
            stack += [block(width, filters, 1, unchanged()) for _ in range(1, blocks)]
            self.add_module(f"stack{i}", Stack(f"stack{i}_block{{}}", stack))
            inputs, stride = width, stride * strides
            self.levels.append(Level(f"P{i + 2}", width, stride))
        self.post = PostActivation(inputs) if use_pre_activation else nn.Identity()

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What each stack gives, `[batch, channels, height, width]`."""
        check_images(images, self.data_format, self.channels)
        x = self.stem(channels_first(images, self.data_format))
        found = []
        for stack in (child for child in self.children() if isinstance(child, Stack)):
            for block in stack:
                x = block(x)
            found.append(x)
        return found

    def forward(self, images: Images) -> torch.Tensor:
        return channels_back(self.post(self.features(images)[-1]), self.data_format)
