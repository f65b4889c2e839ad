"""DeepLabV3 (arXiv:1706.05587) and DeepLabV3+ (arXiv:1802.02611)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import nn

from ._backbone import Backbone, FeaturePyramidBackbone
from ._inputs import Images
from .layers.convolution import (
    BatchNormalization,
    Conv2D,
    channels_back,
    channels_first,
    pair,
    resize,
)
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import Kind, Layout, Parts, Sequential, apart
from .layers.pyramid import check_encoder, own_dtype
from .layers.vision import check_images, image_channels

FILTERS = 256


def conv_norm(
    inputs: int, conv: str, norm: str, kernel_size: int = 1, dilation: int = 1
) -> Sequential:
    """Convolution, norm and ReLU, the first two by their names in Keras."""
    layer = Conv2D(inputs, FILTERS, kernel_size, padding="same", dilation=dilation, use_bias=False)
    parts = {conv: layer, norm: BatchNormalization(FILTERS), "relu": nn.ReLU(inplace=True)}
    return Sequential(OrderedDict(parts))


class SpatialPyramidPooling(Layer):
    """Convolutions of several dilations and the mean of the whole map, side by side.

    `[b, c, h, w]` → `[b, 256, h, w]`.
    """

    def __init__(self, channels: int, dilation_rates: Sequence[int]) -> None:
        super().__init__()
        branches = [conv_norm(channels, "aspp_conv_1", "aspp_bn_1")]
        branches += [
            conv_norm(channels, f"aspp_conv_{i}", f"aspp_bn_{i}", 3, rate)
            for i, rate in enumerate(dilation_rates, start=2)
        ]
        branches.append(conv_norm(channels, "conv_pooling", "bn_pooling"))
        self.aspp_parallel_channels = Parts("{}", branches)
        self.projection = conv_norm(len(branches) * FILTERS, "conv_projection", "bn_projection")

    layout = Layout(unnamed=("projection",))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *local, pooled = self.aspp_parallel_channels
        whole = pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        whole = whole.contiguous(memory_format=torch.channels_last)
        return self.projection(torch.cat([*(branch(x) for branch in local), whole], 1))


class DeepLabV3Backbone(Backbone):
    """An image encoder, atrous spatial pyramid pooling and a decoder.

    Images `[batch, height, width, channels]` → features `[batch, height, width, 256]`.

    Args:
        image_encoder: gives the maps that are pooled and decoded.
        spatial_pyramid_pooling_key: the level that is pooled, `P5` say.
        upsampling_size: what the pooled map is enlarged by, to the size of the low-level one;
            height and width, or one number for both.
        dilation_rates: one for each 3 × 3 convolution of the pooling.
        low_level_feature_key: the level that is put beside it, of DeepLabV3+; none by default.
        projection_filters: channels that this level is projected to.
        image_shape: height, width and channels; only the channels have an effect, and `None` of
            them is 3.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: levels that the encoder does not have, an `upsampling_size` beyond the image, an
            encoder of other channels or with `channels_first`, or images of other channels, or of a
            size where the enlarged map is not that of the low-level one.
    """

    def __init__(
        self,
        image_encoder: FeaturePyramidBackbone,
        spatial_pyramid_pooling_key: str,
        upsampling_size: int | Sequence[int],
        dilation_rates: Sequence[int],
        low_level_feature_key: str | None = None,
        projection_filters: int = 48,
        image_shape: Sequence[int | None] = (None, None, 3),
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.channels = image_channels(image_shape, "channels_last")
        check_encoder(image_encoder, "channels_last", self.channels)
        levels = {level.name: level for level in image_encoder.levels}
        keys = {
            "spatial_pyramid_pooling_key": spatial_pyramid_pooling_key,
            "low_level_feature_key": low_level_feature_key or spatial_pyramid_pooling_key,
        }
        for argument, key in keys.items():
            if key not in levels:
                raise ValueError(
                    f"{argument}={key!r} must be a level of the image_encoder: {', '.join(levels)}."
                )
        self.pooled = levels[spatial_pyramid_pooling_key]
        self.low_level = levels[low_level_feature_key] if low_level_feature_key else None
        self.spatial_pyramid_pooling = SpatialPyramidPooling(self.pooled.channels, dilation_rates)
        width = FILTERS
        if self.low_level:
            self.decoder_conv = Conv2D(
                self.low_level.channels, projection_filters, 1, use_bias=False
            )
            self.decoder_norm = BatchNormalization(projection_filters)
            width += projection_filters
        self.segmentation_head_conv = Conv2D(width, FILTERS, 1, use_bias=False)
        self.segmentation_head_norm = BatchNormalization(FILTERS)
        self.enlarged = pair(upsampling_size, "upsampling_size")
        stride = 2 ** int(spatial_pyramid_pooling_key[1:])
        self.restored = stride // self.enlarged[0]
        if self.restored < 1:
            raise ValueError(
                f"upsampling_size={upsampling_size!r} enlarges {spatial_pyramid_pooling_key} "
                f"beyond the image: it must be {stride} at most."
            )
        self.relu = nn.ReLU(inplace=True)
        self.image_encoder = own_dtype(image_encoder)

    @cached_property
    def reached(self) -> frozenset[str]:
        """Layers of the encoder that its maps depend on."""
        levels = self.image_encoder.levels
        return self.image_encoder.layers_of(level.name for level in levels)

    @property
    def layout(self) -> Layout:
        return Layout(
            Kind.GRAPH,
            names={"image_encoder": "functional"},
            unnamed=("image_encoder",),
            inside={"image_encoder": lambda own: apart(own, self.reached.__contains__)},
            order=(
                "functional",
                "decoder_conv",
                "spatial_pyramid_pooling",
                "decoder_norm",
                "segmentation_head_conv",
                "segmentation_head_norm",
            ),
        )

    def forward(self, images: Images) -> torch.Tensor:
        check_images(images, "channels_last", self.channels)
        features = self.image_encoder.forward_pyramid(images)
        x = channels_first(features[self.pooled.name], "channels_last")
        if self.low_level:
            y = channels_first(features[self.low_level.name], "channels_last")
            self.check_sizes(images, x, y)
            x = self.spatial_pyramid_pooling(x)
            y = self.relu(self.decoder_norm(self.decoder_conv(y)))
            x = torch.cat((resize(x, y.shape[2:]), y), 1)
        else:
            x = enlarge(self.spatial_pyramid_pooling(x), self.enlarged)
        x = self.relu(self.segmentation_head_norm(self.segmentation_head_conv(x)))
        return channels_back(enlarge(x, (self.restored, self.restored)), "channels_last")

    def check_sizes(self, images: torch.Tensor, pooled: torch.Tensor, low: torch.Tensor) -> None:
        """Refuse images whose maps cannot be put side by side."""
        rows, columns = (size * factor for size, factor in zip(pooled.shape[2:], self.enlarged))
        if torch.compiler.is_compiling() or (rows, columns) == low.shape[2:]:
            return
        raise ValueError(
            f"Images must be of a size where {self.pooled.name}, enlarged by upsampling_size="
            f"{self.upsampling_size}, is as large as {self.low_level_feature_key}, not "
            f"{images.shape[1]} × {images.shape[2]} ({rows} × {columns} and {low.shape[2]} × "
            f"{low.shape[3]}): take a height and a width divisible by {self.pooled.stride}, or "
            "another upsampling_size."
        )


def enlarge(x: torch.Tensor, factors: tuple[int, int]) -> torch.Tensor:
    return resize(x, (x.shape[2] * factors[0], x.shape[3] * factors[1]))
