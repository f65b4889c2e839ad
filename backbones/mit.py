"""Mix Transformer, the encoder of SegFormer (arXiv:2105.15203)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from ._backbone import FeaturePyramidBackbone
from ._inputs import Images
from .layers.activations import gelu_approximate
from .layers.attention import attend, merge_heads, split_heads
from .layers.convolution import Conv2D, DepthwiseConv2D, channels_back, channels_first
from .layers.core import Dense, Dropout, LayerNormalization
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.pyramid import Level
from .layers.vision import DropPath, check_at_least, check_images, image_channels

# All maps are `[batch, height, width, channels]`; convolutions see them turned.
LAST = "channels_last"


class OverlappingPatchingAndEmbedding(Layer):
    """Patches larger than the steps between them."""

    layout = Layout(unnamed=("proj", "norm"))

    def __init__(self, channels: int, project_dim: int, patch_size: int, stride: int) -> None:
        super().__init__()
        self.proj = Conv2D(channels, project_dim, patch_size, stride, patch_size // 2)
        self.norm = LayerNormalization(project_dim, 1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj(channels_first(x, LAST))
        return self.norm(channels_back(x, LAST))


class SegFormerMultiheadAttention(Layer):
    """Attention to a map that is `sr_ratio` times smaller in height and width."""

    layout = Layout(unnamed=("q", "k", "v", "proj", "sr", "norm"))

    def __init__(self, project_dim: int, num_heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = Dense(project_dim, project_dim)
        self.k = Dense(project_dim, project_dim)
        self.v = Dense(project_dim, project_dim)
        self.proj = Dense(project_dim, project_dim)
        self.dropout = Dropout(0.1)
        self.proj_drop = Dropout(0.1)
        self.sr: Conv2D | None = None
        if sr_ratio > 1:
            self.sr = Conv2D(project_dim, project_dim, sr_ratio, sr_ratio)
            self.norm = LayerNormalization(project_dim, 1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1:3]
        q = split_heads(self.q(x).flatten(1, 2), self.num_heads)
        if self.sr is not None:
            x = self.norm(channels_back(self.sr(channels_first(x, LAST)), LAST))
        k = split_heads(self.k(x).flatten(1, 2), self.num_heads)
        v = split_heads(self.v(x).flatten(1, 2), self.num_heads)
        x = attend(q, k, v, dropout=self.dropout.p if self.training else 0.0)
        return self.proj_drop(self.proj(merge_heads(x).unflatten(1, (height, width))))


class MixFFN(Layer):
    """A feed-forward network that sees the neighbours, and so where it is."""

    layout = Layout(unnamed=("fc1", "dwconv", "fc2"))

    def __init__(self, channels: int, mid_channels: int) -> None:
        super().__init__()
        self.fc1 = Dense(channels, mid_channels)
        self.dwconv = DepthwiseConv2D(mid_channels, 3, padding="same")
        self.fc2 = Dense(mid_channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dwconv(channels_first(self.fc1(x), LAST))
        return self.fc2(gelu_approximate(channels_back(x, LAST)))


class HierarchicalTransformerEncoder(Layer):
    layout = Layout(unnamed=("norm1", "attn", "norm2", "mlp"))

    def __init__(
        self, project_dim: int, num_heads: int, sr_ratio: int, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.norm1 = LayerNormalization(project_dim, 1e-6)
        self.attn = SegFormerMultiheadAttention(project_dim, num_heads, sr_ratio)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = LayerNormalization(project_dim, 1e-6)
        self.mlp = MixFFN(project_dim, 4 * project_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(Layer):
    """Patches, blocks and a norm. In Keras they are the model's own layers.

    Args:
        index: which stage it is, from 0.
        output_shape: height, width and channels that the result is given; `None` for those that it
            has.
    """

    def __init__(
        self,
        index: int,
        embedding: OverlappingPatchingAndEmbedding,
        blocks: Sequence[HierarchicalTransformerEncoder],
        output_shape: tuple[int, int, int] | None,
    ) -> None:
        super().__init__()
        self.layout = Layout(
            names={"embedding": f"patch_and_embed_{index}", "norm": f"norm_{index}"},
            unnamed=("norm",),
            group="{child}",
        )
        self.embedding = embedding
        self.blocks = Stack(f"hierarchical_encoder_{index}_{{}}", blocks)
        self.norm = LayerNormalization(embedding.proj.out_channels, 1e-5)
        self.output_shape = output_shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x if self.output_shape is None else x.reshape(x.shape[0], *self.output_shape)


class MiTBackbone(FeaturePyramidBackbone):
    """Mix Transformer: transformers at several resolutions, each on the map of the one before.

    Images `[batch, height, width, channels]` → the last stage's map; `pyramid_outputs` has `P1` (a
    quarter of the image's resolution in all presets) and up, one level per stage.

    Args:
        layerwise_depths: blocks of each stage.
        num_layers: number of stages. What the lists have beyond that is not used.
        layerwise_num_heads: attention heads of each stage.
        layerwise_sr_ratios: how many times smaller in height and width the map is that each stage
            attends to.
        max_drop_path_rate: of whole residual branches in training mode, in the last block; it
            rises evenly from 0 in the first one.
        layerwise_patch_sizes: side of a patch in each stage, in pixels of its input.
        layerwise_strides: steps from patch to patch.
        image_shape: height, width and channels of the images. Without height and width any images
            are taken; KerasHub needs them, and squares. Given sizes that the strides do not divide
            leave more positions than KerasHub's maps have: the rest goes into their channels.
        hidden_dims: channels of each stage.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: a list with less than `num_layers` numbers, heads that do not divide the
            channels, an `image_shape` that is too small, or that the strides do not divide and
            KerasHub cannot take either; images of another shape.
    """

    maps_format: ClassVar = "channels_last"

    def __init__(
        self,
        layerwise_depths: Sequence[int],
        num_layers: int,
        layerwise_num_heads: Sequence[int],
        layerwise_sr_ratios: Sequence[int],
        max_drop_path_rate: float,
        layerwise_patch_sizes: Sequence[int],
        layerwise_strides: Sequence[int],
        image_shape: Sequence[int | None] = (None, None, 3),
        hidden_dims: Sequence[int] | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_at_least(1, num_layers=num_layers, layerwise_sr_ratios=layerwise_sr_ratios)
        for key, values in self.arguments.items():
            by_layer = key.startswith("layerwise_") or key == "hidden_dims"
            if by_layer and len(values or ()) < num_layers:
                raise ValueError(
                    f"{key}={values} must have a number for each of num_layers={num_layers}."
                )
        rates = torch.linspace(0, max_drop_path_rate, sum(layerwise_depths), device="cpu").tolist()
        width = self.channels = image_channels(image_shape, LAST)
        size = self.image_size = (image_shape[0], image_shape[1])
        # Without blocks nothing is attended to.
        least = [sr if depth else 1 for sr, depth in zip(layerwise_sr_ratios, layerwise_depths)]
        self.smallest = smallest_side(layerwise_patch_sizes[:num_layers], layerwise_strides, least)
        self.levels: list[Level] = []
        stride = 1
        for i, dim in zip(range(num_layers), hidden_dims or ()):
            heads, sr_ratio = layerwise_num_heads[i], layerwise_sr_ratios[i]
            if dim % heads:
                raise ValueError(
                    f"hidden_dims={hidden_dims} must be divisible by "
                    f"layerwise_num_heads={layerwise_num_heads}."
                )
            embedding = OverlappingPatchingAndEmbedding(
                width, dim, layerwise_patch_sizes[i], layerwise_strides[i]
            )
            before = sum(layerwise_depths[:i])
            blocks = [
                HierarchicalTransformerEncoder(dim, heads, sr_ratio, rate)
                for rate in rates[before : before + layerwise_depths[i]]
            ]
            shape = None
            if size[0] is not None and size[1] is not None:
                shape = self.map_shape(embedding.proj, (size[0], size[1]), least[i])
                size = shape[:2]
            width = dim if shape is None else shape[2]
            stride *= layerwise_strides[i]
            self.add_module(f"stage{i}", Stage(i, embedding, blocks, shape))
            self.levels.append(Level(f"P{i + 1}", width, stride))

    def map_shape(self, conv: Conv2D, size: tuple[int, int], least: int) -> tuple[int, int, int]:
        """Height, width and channels of a stage's map, of this size before it.

        KerasHub divides the size by the stride; where the convolution gives more positions, they
        go into the channels.
        """
        patch, stride = conv.kernel_size[0], conv.stride[0]
        grid = [(side + patch // 2 * 2 - patch) // stride + 1 for side in size]
        height, width = size[0] // stride, size[1] // stride
        if min(height, width) < 1 or min(grid) < least:
            raise ValueError(
                f"image_shape={self.image_shape} is too small for layerwise_strides="
                f"{self.layerwise_strides} and layerwise_sr_ratios={self.layerwise_sr_ratios}."
            )
        channels, rest = divmod(grid[0] * grid[1] * conv.out_channels, height * width)
        if rest:
            raise ValueError(
                f"image_shape={self.image_shape} must be divisible by layerwise_strides="
                f"{self.layerwise_strides}, one after the other, with odd layerwise_patch_sizes; "
                "image_shape=(None, None, channels) takes any."
            )
        return height, width, channels

    def forward_pyramid(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        check_images(images, LAST, self.channels, self.image_size, at_least=self.smallest)
        x, maps = images, {}
        for level, stage in zip(self.levels, self.children()):
            x = maps[level.name] = stage(x)
        return maps

    def forward(self, images: Images) -> torch.Tensor:
        return self.forward_pyramid(images)[self.levels[-1].name]


def smallest_side(
    patch_sizes: Sequence[int], strides: Sequence[int], sr_ratios: Sequence[int]
) -> int:
    """Of the images of which every stage has a position to attend to."""
    side = 1
    for patch, stride, ratio in reversed(list(zip(patch_sizes, strides, sr_ratios))):
        side = max(1, (max(side, ratio) - 1) * stride + patch - patch // 2 * 2)
    return side
