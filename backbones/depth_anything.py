"""Depth Anything V2 (arXiv:2406.09414): depth of each pixel, by a dense prediction head
(arXiv:2103.13413) on DINOv2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from ._backbone import Backbone, FeaturePyramidBackbone
from ._inputs import Images
from .layers.convolution import (
    Conv2D,
    Conv2DTranspose,
    channels_back,
    check_data_format,
    resize,
)
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import Kind, Layout, Parts, apart
from .layers.vision import check_at_least, check_equally_long

Size = tuple[int, int]


class DepthAnythingReassembleLayer(Layer):
    """Maps of patches, projected and then enlarged or reduced by about `factor`."""

    def __init__(self, inputs: int, hidden_dim: int, factor: float) -> None:
        super().__init__()
        self.projection = Conv2D(inputs, hidden_dim, 1)
        self.resize: Conv2D | Conv2DTranspose | None = None
        if factor > 1:
            self.resize = Conv2DTranspose(hidden_dim, hidden_dim, int(factor), int(factor))
        elif factor < 1:
            self.resize = Conv2D(hidden_dim, hidden_dim, 3, int(1 / factor), padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.projection(x)
        return x if self.resize is None else self.resize(x)


def reassembled(size: int, factor: float) -> int:
    """Height or width of what a `DepthAnythingReassembleLayer` gives."""
    if factor < 1:
        return (size - 1) // int(1 / factor) + 1
    return size * int(factor)


class DepthAnythingPreActResidualLayer(Layer):
    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.convolution1 = Conv2D(hidden_dim, hidden_dim, 3, padding=1)
        self.convolution2 = Conv2D(hidden_dim, hidden_dim, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.convolution2(F.relu(self.convolution1(F.relu(x))))


class DepthAnythingFeatureFusionLayer(Layer):
    """What is fused so far and the next map → a map of the next one's size.

    Args:
        size: height and width of the result.
    """

    def __init__(self, hidden_dim: int, size: Size) -> None:
        super().__init__()
        self.size = size
        self.residual_layer1 = DepthAnythingPreActResidualLayer(hidden_dim)
        self.residual_layer2 = DepthAnythingPreActResidualLayer(hidden_dim)
        self.projection = Conv2D(hidden_dim, hidden_dim, 1)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        if residual is not None:
            x = x + self.residual_layer1(residual)
        x = resize(self.residual_layer2(x), self.size, align_corners=True)
        return self.projection(x)


class DepthAnythingNeck(Layer):
    """Hidden states of a ViT → maps, each with the coarser ones in it.

    Args:
        sizes: height and width of what each fusion gives.
    """

    def __init__(
        self,
        inputs: int,
        hidden_dims: Sequence[int],
        factors: Sequence[float],
        fusion_hidden_dim: int,
        sizes: Sequence[Size],
    ) -> None:
        super().__init__()
        self.reassemble_stage = Parts(
            "reassemble_stage_{}",
            (
                DepthAnythingReassembleLayer(inputs, dim, factor)
                for dim, factor in zip(hidden_dims, factors)
            ),
        )
        self.convs = Parts(
            "convs_{}",
            (Conv2D(dim, fusion_hidden_dim, 3, padding=1, use_bias=False) for dim in hidden_dims),
        )
        # The first one's residual_layer1 is in KerasHub's files and is not used.
        self.fusion_stage = Parts(
            "fusion_stage_{}",
            (DepthAnythingFeatureFusionLayer(fusion_hidden_dim, size) for size in sizes),
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Maps `[batch, channels, height, width]`, the first to be the largest; fused ones, the
        smallest first.
        """
        maps = [conv(layer(x)) for x, layer, conv in zip(maps, self.reassemble_stage, self.convs)]
        first, *others = self.fusion_stage
        fused = [first(maps[-1])]
        for layer, x in zip(others, reversed(maps[:-1])):
            fused.append(layer(fused[-1], x))
        return fused


class DepthAnythingDepthEstimationHead(Layer):
    """A map → depths, in an image of this height and width."""

    def __init__(self, inputs: int, hidden_dim: int, size: Size) -> None:
        super().__init__()
        self.size = size
        self.conv1 = Conv2D(inputs, inputs // 2, 3, padding=1)
        self.conv2 = Conv2D(inputs // 2, hidden_dim, 3, padding=1)
        self.conv3 = Conv2D(hidden_dim, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = resize(self.conv1(x), self.size, align_corners=True)
        return self.conv3(F.relu(self.conv2(x)))


class DepthAnythingBackbone(Backbone):
    """DINOv2, a neck that makes maps of its hidden states, and a head that makes depths of these.

    Images `[batch, height, width, channels]` → `[batch, height, width, 1]`, in which what patches
    do not fill of the image is left out. Depths are what relu, or the sigmoid of models of metric
    depths, are applied to.

    Args:
        image_encoder: gives the hidden states.
        reassemble_factors: by how much each of the chosen hidden states is enlarged, the first
            the most.
        neck_hidden_dims: width of each.
        fusion_hidden_dim: width of the fused maps.
        head_hidden_dim: width inside the head.
        head_in_index: which fused map goes into the head; the last one is the largest.
        feature_keys: which of the encoder's `pyramid_outputs`, taken in the encoder's order (on
            PyTorch KerasHub takes them in that of the alphabet, `stage12` before `stage3`); `None`
            for all.
        data_format: `channels_last` or `channels_first`, of images and outputs, and the encoder's;
            `None` for the first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: keys that the encoder does not have, lists of different lengths, fewer than two
            maps, factors by which they do not fit each other, an encoder of another data format;
            images of another shape than the encoder's.
    """

    unsaved: ClassVar = {"data_format": (None, "channels_last")}
    resampled: ClassVar = ("image_shape",)

    def __init__(
        self,
        image_encoder: FeaturePyramidBackbone,
        reassemble_factors: Sequence[float],
        neck_hidden_dims: Sequence[int],
        fusion_hidden_dim: int,
        head_hidden_dim: int,
        head_in_index: int,
        feature_keys: Sequence[str] | None = None,
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.data_format = check_data_format(data_format)
        if image_encoder.class_name != "DINOV2Backbone":
            raise ValueError(
                f"image_encoder must be a DINOV2Backbone, not a {image_encoder.class_name}."
            )
        encoder: Any = image_encoder
        if encoder.data_format != self.data_format:
            raise ValueError(
                f"image_encoder has data_format={encoder.data_format!r} and must have this "
                f"model's, {self.data_format!r}."
            )
        level, *_ = levels = image_encoder.levels
        known = [one.name for one in levels]
        keys = known if feature_keys is None else list(feature_keys)
        if len(set(keys)) < len(keys) or not set(keys) <= set(known):
            raise ValueError(
                f"feature_keys={keys} must be some of the image_encoder's, each once: "
                f"{', '.join(known)}."
            )
        self.feature_keys = keys
        check_equally_long(
            reassemble_factors=reassemble_factors,
            neck_hidden_dims=neck_hidden_dims,
            feature_keys=keys,
        )
        count = len(keys)
        if count < 2:
            raise ValueError(f"feature_keys={keys} must be two or more.")
        if not -count <= head_in_index < count:
            raise ValueError(f"head_in_index={head_in_index} must be one of {count} maps.")
        check_at_least(2, fusion_hidden_dim=fusion_hidden_dim)
        if min(reassemble_factors) <= 0:
            raise ValueError(f"reassemble_factors={reassemble_factors} must be above zero.")
        self.grid: tuple[int, int] = encoder.embeddings.grid
        sizes = self.fused_sizes(reassemble_factors)
        self.image_encoder = image_encoder
        self.neck = DepthAnythingNeck(
            level.channels,
            neck_hidden_dims,
            reassemble_factors,
            fusion_hidden_dim,
            sizes,
        )
        height, width = (size * level.stride for size in self.grid)
        self.head = DepthAnythingDepthEstimationHead(
            fusion_hidden_dim, head_hidden_dim, (height, width)
        )

    def fused_sizes(self, factors: Sequence[float]) -> list[Size]:
        """Each fused map has the size of the next one, and the last is twice as large."""
        sizes = []
        for factor in reversed(factors[:-1]):
            size = [reassembled(side, factor) for side in self.grid]
            if size != [int(side * factor) for side in self.grid]:
                raise ValueError(
                    f"reassemble_factors={factors} must make whole numbers of the image_encoder's "
                    f"{self.grid[0]} × {self.grid[1]} patches, all but the last: by {factor} they "
                    "do not."
                )
            sizes.append((size[0], size[1]))
        height, width = sizes[-1]
        return [*sizes, (2 * height, 2 * width)]

    @property
    def layout(self) -> Layout:
        """What the maps need of the encoder is a functional model of its own."""
        encoder = self.image_encoder
        needed = {"embeddings", "encoder"}
        if encoder.apply_layernorm:
            needed.add("layernorm")
        prefix = encoder.layout.prefix.replace("{}", encoder.name)

        def parts(layout: Layout) -> list[Layout]:
            own = {prefix + child for child in needed}
            return apart(replace(layout, prefix=prefix), lambda name: name in own)

        return Layout(
            Kind.GRAPH,
            names={"image_encoder": "functional"},
            unnamed=("image_encoder",),
            inside={"image_encoder": parts},
        )

    def forward(self, images: Images) -> torch.Tensor:
        features = self.image_encoder.forward_pyramid(images)
        patches = self.grid[0] * self.grid[1]  # after class token and registers
        maps = [
            x[:, -patches:].mT.unflatten(2, self.grid).contiguous(memory_format=torch.channels_last)
            for name, x in features.items()
            if name in self.feature_keys
        ]
        depths = self.head(self.neck(maps)[self.head_in_index])
        return channels_back(depths, self.data_format)
