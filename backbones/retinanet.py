"""RetinaNet (arXiv:1708.02002): a feature pyramid network (arXiv:1612.03144) on an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import torch
from torch.nn import functional as F

from ._backbone import FeaturePyramidBackbone
from ._inputs import Images
from .layers.convolution import (
    BatchNormalization,
    Conv2D,
    channels_back,
    channels_first,
    check_data_format,
    pad_same,
)
from .layers.dtypes import DTypeLike
from .layers.initializers import variance_scaling
from .layers.layer import Layer
from .layers.layout import Kind, Layout, Parts, apart
from .layers.pyramid import Level, check_encoder, own_dtype
from .layers.vision import check_images, image_channels

FILTERS = 256


def conv(inputs: int, kernel_size: int, strides: int = 1) -> Conv2D:
    initializer = variance_scaling(1.0, "fan_in", "truncated_normal")
    padding = "same" if strides == 1 else 0
    return Conv2D(inputs, FILTERS, kernel_size, strides, padding, kernel_initializer=initializer)


def norms(name: str, many: int, start: int) -> Parts:
    # KerasHub gives epsilon for the momentum, too.
    return Parts(name, (BatchNormalization(FILTERS, 1e-3, 1e-3) for _ in range(many)), start)


class FeaturePyramid(Layer):
    """Maps of an encoder, each with what is above it added, and coarser ones on top.

    Args:
        channels: of the encoder's maps, from `min_level` up.
        max_level: of the coarsest map that is given.
        use_p5: whether the coarser maps begin from the encoder's last, not from the pyramid's.
    """

    layout = Layout(
        attributes={
            "lateral_convs": "lateral_conv_layers",
            "lateral_norms": "lateral_batch_norm_layers",
            "output_convs": "output_conv_layers",
            "coarser_convs": "output_conv_layers",
            "output_norms": "output_batch_norms",
        }
    )

    def __init__(
        self,
        channels: Sequence[int],
        min_level: int,
        max_level: int,
        use_p5: bool,
        use_batch_norm: bool,
    ) -> None:
        super().__init__()
        self.min_level = min_level
        self.use_p5 = use_p5
        own, coarser = len(channels), max_level - min_level - len(channels) + 1
        top = min_level + own
        self.lateral_convs = Parts(
            "lateral_conv_P{}", (conv(inputs, 1) for inputs in channels), min_level
        )
        self.lateral_norms = norms("lateral_norm_P{}", own if use_batch_norm else 0, min_level)
        self.output_convs = Parts(
            "output_conv_P{}", (conv(FILTERS, 3) for _ in range(own)), min_level
        )
        widths = [channels[-1] if use_p5 else FILTERS] + [FILTERS] * coarser
        self.coarser_convs = Parts(
            "coarser_P{}", (conv(inputs, 3, 2) for inputs in widths[:coarser]), top
        )
        # Those of the encoder's levels are in KerasHub's files and are not used.
        many = own + coarser if use_batch_norm else 0
        self.output_norms = norms("output_norm_P{}", many, min_level)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Maps `[batch, channels, height, width]`, the largest first, and so the result."""
        merged: list[torch.Tensor] = []
        for i in reversed(range(len(maps))):
            x = self.lateral_convs[i](maps[i])
            if merged:
                x = x + F.interpolate(merged[0], x.shape[2:], mode="nearest")
            merged.insert(0, self.lateral_norms[i](x) if self.lateral_norms else x)
        outputs = [layer(x) for layer, x in zip(self.output_convs, merged)]
        x = maps[-1] if self.use_p5 else outputs[-1]
        for i, layer in enumerate(self.coarser_convs):
            x = layer(pad_same(F.relu(x) if i else x, 3, 2))
            x = self.output_norms[len(maps) + i](x) if self.output_norms else x
            outputs.append(x)
        return outputs


class RetinaNetBackbone(FeaturePyramidBackbone):
    """An image encoder and a feature pyramid.

    Images `[batch, height, width, channels]` → for each level a map of 256 channels by name, `P3`
    for an eighth of the image's resolution.

    Args:
        image_encoder: gives the maps that the pyramid begins from.
        min_level: the finest level, 3 for `P3`.
        max_level: the coarsest level; those that the encoder does not have are made of the one
            below.
        use_p5: whether the first of these is made of the encoder's last map, not the pyramid's.
        use_fpn_batch_norm: whether the pyramid has batch norms.
        image_shape: height, width and channels in the order of `data_format`; only the channels
            have an effect, and `None` of them is 3.
        data_format: `channels_last` or `channels_first`, of images and outputs, and the encoder's;
            `None` for the first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: levels that the encoder does not have, an encoder of other channels or another
            data format, images of other channels, or of a size where a map is not twice as large
            as the one above it.
    """

    unsaved: ClassVar = {"data_format": (None, "channels_last")}

    def __init__(
        self,
        image_encoder: FeaturePyramidBackbone,
        min_level: int,
        max_level: int,
        use_p5: bool,
        use_fpn_batch_norm: bool = False,
        image_shape: Sequence[int | None] = (None, None, 3),
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if min_level > max_level:
            raise ValueError(f"min_level={min_level} must not be above max_level={max_level}.")
        self.data_format = check_data_format(data_format)
        self.channels = image_channels(image_shape, self.data_format)
        check_encoder(image_encoder, self.data_format, self.channels)
        levels = {level.name: level for level in image_encoder.levels}
        top = min(max(int(level[1:]) for level in levels), max_level)
        if top < 5 <= max_level:
            raise ValueError(
                f"max_level={max_level} needs an image_encoder with a level P5; this one has "
                f"{', '.join(levels)}."
            )
        missing = [f"P{i}" for i in range(min_level, top + 1) if f"P{i}" not in levels]
        if missing or min_level > top:
            raise ValueError(
                f"min_level={min_level} must be a level of the image_encoder, which has "
                f"{', '.join(levels)}."
            )
        found = [levels[f"P{i}"] for i in range(min_level, top + 1)]
        self.feature_pyramid = FeaturePyramid(
            [level.channels for level in found], min_level, max_level, use_p5, use_fpn_batch_norm
        )
        self.image_encoder = own_dtype(image_encoder)
        self.encoder_levels = found
        strides = [level.stride for level in found]
        strides += [strides[-1] * 2**i for i in range(1, max_level - top + 1)]
        self.levels = [
            Level(f"P{i}", FILTERS, stride) for i, stride in enumerate(strides, start=min_level)
        ]

    @cached_property
    def reached(self) -> frozenset[str]:
        """Layers of the encoder that its maps depend on."""
        return self.image_encoder.layers_of(level.name for level in self.encoder_levels)

    @property
    def layout(self) -> Layout:
        return Layout(
            Kind.GRAPH,
            names={"image_encoder": "backbone", "feature_pyramid": "fpn"},
            inside={"image_encoder": lambda own: apart(own, self.reached.__contains__)},
            order=("backbone", "fpn"),
        )

    def forward_pyramid(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        check_images(images, self.data_format, self.channels)
        features = self.image_encoder.forward_pyramid(images)
        maps = [channels_first(features[x.name], self.data_format) for x in self.encoder_levels]
        if not torch.compiler.is_compiling():
            self.check_doubled(images, maps)
        outputs = self.feature_pyramid(maps)
        return {
            level.name: channels_back(x, self.data_format) for level, x in zip(self.levels, outputs)
        }

    def check_doubled(self, images: torch.Tensor, maps: Sequence[torch.Tensor]) -> None:
        """Refuse images of which the maps, the largest first, are not each twice the next one."""
        height, width = (
            images.shape[1:3] if self.data_format == "channels_last" else images.shape[2:]
        )
        for (level, fine), (above, coarse) in pairwise(zip(self.encoder_levels, maps)):
            (rows, columns), half = fine.shape[2:], coarse.shape[2:]
            if (rows, columns) != (2 * half[0], 2 * half[1]):
                raise ValueError(
                    f"Images must be of a size where {level.name} is twice as large as "
                    f"{above.name}, not {height} × {width} ({rows} × {columns} and {half[0]} × "
                    f"{half[1]}): take a height and a width divisible by "
                    f"{self.encoder_levels[-1].stride}."
                )

    def forward(self, images: Images) -> dict[str, torch.Tensor]:
        return self.forward_pyramid(images)
