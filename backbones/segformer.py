"""SegFormer (arXiv:2105.15203): an encoder's maps, put together for segmentation."""

from __future__ import annotations

import torch
from torch import nn

from ._backbone import Backbone, FeaturePyramidBackbone
from ._inputs import Images
from .layers.convolution import (
    BatchNormalization,
    Conv2D,
    channels_back,
    channels_first,
    resize,
)
from .layers.core import Dense
from .layers.dtypes import DTypeLike
from .layers.layout import Graph, Kind, Layout, Parts, Sequential, functional


class SegFormerBackbone(Backbone):
    """An image encoder and what makes one map of its maps.

    Images `[batch, height, width, channels]` → `[batch, height / 4, width / 4,
    projection_filters]`, the resolution of the encoder's first map.

    Args:
        image_encoder: gives the maps, a `MiTBackbone`.
        projection_filters: channels that each map is projected to, and of the output.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an encoder that is no `MiTBackbone`, or has two maps of equal `hidden_dims`;
            images that it refuses.
    """

    def __init__(
        self,
        image_encoder: FeaturePyramidBackbone,
        projection_filters: int,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        dims = getattr(image_encoder, "hidden_dims", None)
        if dims is None:
            raise ValueError(
                f"image_encoder must be a MiTBackbone, not a {type(image_encoder).__name__}."
            )
        levels = image_encoder.levels
        dims = dims[: len(levels)]
        if len(set(dims)) < len(dims):
            raise ValueError(f"image_encoder must have hidden_dims that differ, not {dims}.")
        self.image_encoder = image_encoder
        self.image_shape = image_encoder.image_shape
        self.mlp_blocks = Parts(
            [f"linear_{dim}" for dim in dims].__getitem__,
            (Dense(level.channels, projection_filters) for level in levels),
        )
        self.linear_fuse = Sequential(
            Conv2D(len(levels) * projection_filters, projection_filters, 1, use_bias=False),
            BatchNormalization(projection_filters, epsilon=1e-5, momentum=0.9),
            nn.ReLU(),
        )

    @property
    def layout(self) -> Layout:
        graph = Graph()
        maps = graph("feature_extractor", graph("images"))
        outs = [graph("resizing", graph(name, maps)) for name in self.mlp_blocks.names()]
        fused = graph("linear_fuse", graph("concat", *reversed(outs)))
        return Layout(
            Kind.GRAPH,
            names={"image_encoder": "feature_extractor"},
            unnamed=("image_encoder", "linear_fuse"),
            order=graph.order(fused),
            assigned=("image_encoder", "mlp_blocks", "linear_fuse"),
            inside={"image_encoder": functional},
        )

    def forward(self, images: Images) -> torch.Tensor:
        maps = list(self.image_encoder.forward_pyramid(images).values())
        size = maps[0].shape[1:3]
        projected = [
            resize(channels_first(dense(x), "channels_last"), size)
            for dense, x in zip(self.mlp_blocks, maps)
        ]
        x = self.linear_fuse(torch.cat(projected[::-1], dim=1))
        return channels_back(x, "channels_last")
