"""DenseNet (arXiv:1608.06993)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ._backbone import FeaturePyramidBackbone
from ._inputs import Images
from .layers.convolution import (
    BatchNormalization,
    Conv2D,
    SamePadding,
    channels_back,
    channels_first,
    max_pool_same,
)
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.pyramid import Level
from .layers.vision import check_images, image_channels

STEM = 64


def norm(channels: int) -> BatchNormalization:
    return BatchNormalization(channels, epsilon=1.001e-5)


class Stem(Layer):
    """A 7 × 7 convolution and a 3 × 3 max-pool, both of stride 2."""

    layout = Layout(group="{child}")

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pad = SamePadding(7, 2)
        self.conv1_conv = Conv2D(channels, STEM, 7, 2, use_bias=False)
        self.conv1_bn = norm(STEM)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.conv1_bn(self.conv1_conv(self.pad(x))))
        return max_pool_same(x, 3, 2)


class DenseLayer(Layer):
    """1 × 1 and 3 × 3 convolutions, whose `growth_rate` channels are added to the input's."""

    layout = Layout(
        attributes={"bn1": "1_bn", "conv1": "1_conv", "bn2": "2_bn", "conv2": "2_conv"},
        group="{group}_{child}",
    )

    def __init__(self, channels: int, growth_rate: int) -> None:
        super().__init__()
        self.bn1 = norm(channels)
        self.conv1 = Conv2D(channels, 4 * growth_rate, 1, use_bias=False)
        self.bn2 = norm(4 * growth_rate)
        self.conv2 = Conv2D(4 * growth_rate, growth_rate, 3, padding="same", use_bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(self.relu(self.bn1(x)))
        y = self.conv2(self.relu(self.bn2(y)))
        return torch.cat((x, y), 1)


class Transition(Layer):
    """A 1 × 1 convolution to fewer channels and a 2 × 2 average."""

    layout = Layout(group="{group}_{child}")

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.bn = norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = Conv2D(channels, filters, 1, use_bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.conv(self.relu(self.bn(x))))


class DenseNetBackbone(FeaturePyramidBackbone):
    """Convolutional network in which each layer sees the outputs of all layers before it.

    Images `[batch, height, width, channels]` → the last stack's features
    `[batch, height / 32, width / 32, …]` (of four stacks); `pyramid_outputs` has `P2` (a quarter of
    the image's resolution) and up, one level per stack.

    Args:
        stackwise_num_repeats: layers of each stack.
        image_shape: height, width and channels; only the channels have an effect, and `None` of
            them is 3.
        compression_ratio: what a transition between stacks leaves of the channels.
        growth_rate: channels that each layer adds.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: no stacks, numbers that are too small, transitions that leave no channels, or
            images that are too small, or of other channels than those of `image_shape`.
    """

    def __init__(
        self,
        stackwise_num_repeats: Sequence[int],
        image_shape: Sequence[int | None] = (None, None, 3),
        compression_ratio: float = 0.5,
        growth_rate: int = 32,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if not stackwise_num_repeats:
            raise ValueError("stackwise_num_repeats must have at least one stack, not [].")
        self.channels = image_channels(image_shape, "channels_last")
        # The stem rounds up, transitions round down.
        self.smallest = 4 * 2 ** (len(stackwise_num_repeats) - 1) - 3
        self.stem = Stem(self.channels)
        width, stride = STEM, 4
        self.levels: list[Level] = []
        for i, repeats in enumerate(stackwise_num_repeats, start=1):
            if i > 1:
                filters = int(width * compression_ratio)
                if filters < 1:
                    raise ValueError(
                        f"compression_ratio={compression_ratio} leaves no channels of {width}."
                    )
                self.add_module(f"transition{i - 1}", Transition(width, filters))
                width, stride = filters, 2 * stride
            layers = (DenseLayer(width + j * growth_rate, growth_rate) for j in range(repeats))
            self.add_module(f"stack{i}", Stack(f"stack{i}_block{{}}", layers, start=1))
            width += repeats * growth_rate
            self.levels.append(Level(f"P{i + 1}", width, stride))
        self.bn = norm(width)
        self.relu = nn.ReLU()

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What each stack gives, `[batch, channels, height, width]`."""
        check_images(images, "channels_last", self.channels, at_least=self.smallest)
        x = self.stem(channels_first(images, "channels_last"))
        found = []
        for child in self.children():
            if isinstance(child, Transition):
                x = child(x)
            elif isinstance(child, Stack):
                for layer in child:
                    x = layer(x)
                found.append(x)
        return found

    def forward(self, images: Images) -> torch.Tensor:
        x = self.features(images)[-1]
        return channels_back(self.relu(self.bn(x)), "channels_last")
