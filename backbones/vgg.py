"""VGG (arXiv:1409.1556)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ._backbone import Backbone
from ._configuration import COMMON
from ._inputs import Images
from .layers.convolution import Conv2D, channels_back, channels_first
from .layers.dtypes import DTypeLike
from .layers.layout import Parts
from .layers.vision import check_at_least, check_equally_long, check_images, image_channels


class VGGBackbone(Backbone):
    """Stacks of 3 × 3 convolutions with ReLU, each stack followed by a 2 × 2 max-pool.

    Images `[batch, height, width, channels]` → features `[batch, height / 32, width / 32, filters]`
    (of five stacks).

    Args:
        stackwise_num_repeats: convolutions of each stack.
        stackwise_num_filters: their channels.
        image_shape: height, width and channels; only the channels have an effect, and `None` of
            them is 3.
        dtype, trainable, name: as in `Model`; as in KerasHub a preset does not hold them.

    Raises:
        ValueError: stackwise arguments of different lengths or none, numbers that are too small, or
            images that are too small, or of other channels than those of `image_shape`.
    """

    def __init__(
        self,
        stackwise_num_repeats: Sequence[int],
        stackwise_num_filters: Sequence[int],
        image_shape: Sequence[int | None] = (None, None, 3),
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_equally_long(
            stackwise_num_repeats=stackwise_num_repeats, stackwise_num_filters=stackwise_num_filters
        )
        if not stackwise_num_repeats:
            raise ValueError("stackwise_num_repeats must have at least one stack, not [].")
        check_at_least(1, stackwise_num_filters=stackwise_num_filters)
        self.smallest = 2 ** len(stackwise_num_repeats)
        self.channels = image_channels(image_shape, "channels_last")
        width = self.channels
        for i, (repeats, filters) in enumerate(
            zip(stackwise_num_repeats, stackwise_num_filters), start=1
        ):
            widths = [width] + [filters] * repeats
            convs = (Conv2D(inputs, filters, 3, padding="same") for inputs in widths[:repeats])
            self.add_module(f"block{i}", Parts(f"block{i}_conv{{}}", convs, start=1))
            width = widths[-1]
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)

    def get_config(self) -> dict[str, Any]:
        """As Keras would save it: KerasHub's has the architecture alone."""
        config = super().get_config()
        return {name: value for name, value in config.items() if name not in COMMON}

    def forward(self, images: Images) -> torch.Tensor:
        check_images(images, "channels_last", self.channels, at_least=self.smallest)
        x = channels_first(images, "channels_last")
        for block in self.children():
            if isinstance(block, Parts):
                for conv in block:
                    x = self.relu(conv(x))
                x = self.pool(x)
        return channels_back(x, "channels_last")
