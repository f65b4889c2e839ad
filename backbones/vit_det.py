"""ViTDet (arXiv:2203.16527), the image encoder of Segment Anything (arXiv:2304.02643)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import Images
from .layers.activations import Activation
from .layers.attention import attend, merge_heads, split_heads
from .layers.convolution import Conv2D, channels_first
from .layers.core import Dense, LayerNormalization
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import Kind, Layout, Sequential, Stack
from .layers.transformer import head_dim
from .layers.vision import (
    PositionGrid,
    RelativePositions,
    check_at_least,
    check_images,
    image_channels,
    join_windows,
    partition_windows,
    resample_positions,
)

# Of ImageNet's pixels, in red, green and blue.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
EPSILON = 1e-6


class AddRelativePositionalEmbedding(RelativePositions):
    """The positions under their Keras name."""


class MultiHeadAttentionWithRelativePE(Layer):
    """Attention among all places of a map.

    Args:
        size: height and width that the relative positions are for; `None` without them.
    """

    layout = Layout(
        attributes={"positions": "add_decomposed_relative_pe"},
        unnamed=("qkv", "projection", "positions"),
    )

    def __init__(
        self, hidden_dim: int, num_heads: int, use_bias: bool, size: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Dense(hidden_dim, 3 * hidden_dim, use_bias)
        self.projection = Dense(hidden_dim, hidden_dim)
        self.positions: AddRelativePositionalEmbedding | None = None
        if size is not None:
            dim = head_dim(hidden_dim, num_heads)
            self.positions = AddRelativePositionalEmbedding(size, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, height, width, dim]` → the same."""
        height, width = x.shape[1:3]
        query, key, value = (
            split_heads(part, self.num_heads) for part in self.qkv(x).flatten(1, 2).chunk(3, -1)
        )
        bias = None if self.positions is None else self.positions(query, height, width)
        x = merge_heads(attend(query, key, value, bias))
        return self.projection(x).unflatten(1, (height, width))


class MLP(Layer):
    layout = Layout(unnamed=("dense_net",))

    def __init__(self, hidden_dim: int, intermediate_dim: int) -> None:
        super().__init__()
        self.dense_net = Sequential(
            Dense(hidden_dim, intermediate_dim),
            Activation("gelu"),
            Dense(intermediate_dim, hidden_dim),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense_net(x)


class WindowedTransformerEncoder(Layer):
    """A block whose attention stays within windows.

    Args:
        window_size: side of a window; 0 for attention in the whole map.
        grid: height and width of the map.
    """

    layout = Layout(unnamed=("layer_norm1", "layer_norm2", "attention", "mlp_block"))

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        use_bias: bool,
        use_rel_pos: bool,
        window_size: int,
        grid: tuple[int, int],
    ) -> None:
        super().__init__()
        self.window_size = window_size
        size = (window_size, window_size) if window_size else grid
        self.layer_norm1 = LayerNormalization(hidden_dim, EPSILON)
        self.layer_norm2 = LayerNormalization(hidden_dim, EPSILON)
        self.attention = MultiHeadAttentionWithRelativePE(
            hidden_dim, num_heads, use_bias, size if use_rel_pos else None
        )
        self.mlp_block = MLP(hidden_dim, intermediate_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer_norm1(x)
        if self.window_size:
            windows = self.attention(partition_windows(y, self.window_size))
            y = join_windows(windows, *x.shape[1:3])
        else:
            y = self.attention(y)
        x = x + y
        return x + self.mlp_block(self.layer_norm2(x))


class ViTDetPatchingAndEmbedding(Layer):
    layout = Layout(unnamed=("projection",))

    def __init__(self, hidden_dim: int, patch_size: int) -> None:
        super().__init__()
        # An image of one channel is spread over three where it is normalized.
        self.projection = Conv2D(3, hidden_dim, patch_size, patch_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[batch, height, width, 3]` → `[batch, rows, columns, hidden_dim]`."""
        return self.projection(channels_first(images, "channels_last")).permute(0, 2, 3, 1)


class AddPositionalEmbedding(PositionGrid):
    compute_dtype: torch.dtype | None = None

    def __init__(self, side: int, patch_size: int, hidden_dim: int) -> None:
        super().__init__((side, side), (patch_size, patch_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, *self.grid, hidden_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.pos_embed.to(x.dtype)

    def tables(self) -> dict[str, int]:
        return {"pos_embed": 0}

    def resample(self, name: str, old: PositionGrid) -> torch.Tensor:
        rows = getattr(old, name).flatten(0, 2)
        return resample_positions(rows, old.grid, self.grid).view(1, *self.grid, -1)


class Neck(Layer):
    """A map to fewer channels, then mixed with its neighbours."""

    layout = Layout(
        Kind.SEQUENTIAL, class_name="Sequential", unnamed=("conv1", "norm1", "conv2", "norm2")
    )

    def __init__(self, hidden_dim: int, filters: int) -> None:
        super().__init__()
        self.conv1 = Conv2D(hidden_dim, filters, 1, use_bias=False)
        self.norm1 = LayerNormalization(filters, EPSILON)
        self.conv2 = Conv2D(filters, filters, 3, padding="same", use_bias=False)
        self.norm2 = LayerNormalization(filters, EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, rows, columns, hidden_dim]` → `[batch, rows, columns, filters]`."""
        x = self.norm1(self.conv1(channels_first(x, "channels_last")).permute(0, 2, 3, 1))
        return self.norm2(self.conv2(channels_first(x, "channels_last")).permute(0, 2, 3, 1))


class ViTDetBackbone(Backbone):
    """Vision Transformer for dense predictions: most blocks attend within windows, and positions
    are relative, too.

    Images `[batch, height, width, channels]`, of values from 0 to 1 since ImageNet's mean and
    deviation are taken out here → `[batch, rows, columns, num_output_channels]`, a place for each
    patch.

    Args:
        hidden_size: width of the hidden states.
        num_layers: number of blocks.
        intermediate_dim: width inside the feed-forward networks.
        num_heads: number of attention heads.
        global_attention_layer_indices: blocks, counted from 0, that attend to the whole image.
        image_shape: height, width and channels of the images, which are square and have three
            channels, or one that stands for all three.
        patch_size: side of a patch in pixels; what patches do not fill is left out.
        num_output_channels: width of the output.
        use_bias: whether the projections to queries, keys and values have biases.
        use_abs_pos: whether each place has a learned vector.
        use_rel_pos: whether attention knows relative positions.
        window_size: side of a window in patches; 0 for attention to the whole image in all blocks.
        layer_norm_epsilon: has no effect, as in KerasHub: all norms have 1e-6.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an `image_shape` without height and width, not a square, of other channels or
            smaller than a patch; heads that do not divide the width; images of another shape.
    """

    resampled: ClassVar = ("image_shape",)
    maps_format: ClassVar = "channels_last"

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        intermediate_dim: int,
        num_heads: int,
        global_attention_layer_indices: Sequence[int],
        image_shape: Sequence[int | None] = (None, None, 3),
        patch_size: int = 16,
        num_output_channels: int = 256,
        use_bias: bool = True,
        use_abs_pos: bool = True,
        use_rel_pos: bool = True,
        window_size: int = 14,
        layer_norm_epsilon: float = 1e-6,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if head_dim(hidden_size, num_heads) * num_heads != hidden_size:
            raise ValueError(
                f"hidden_size={hidden_size} is not divisible by num_heads={num_heads}."
            )
        check_at_least(0, window_size=window_size)
        check_at_least(1, patch_size=patch_size)
        self.channels = image_channels(image_shape, "channels_last")
        height, width = image_shape[:2]
        if height is None or height != width or height < patch_size:
            raise ValueError(
                f"image_shape={tuple(image_shape)} needs a height and an equal width, of at least "
                f"a patch, {patch_size}."
            )
        if self.channels not in (1, 3):
            raise ValueError(
                f"image_shape={tuple(image_shape)} must have three channels, or one, because "
                "images are normalized as ImageNet's."
            )
        self.side = height
        self.patching = ViTDetPatchingAndEmbedding(hidden_size, patch_size)
        self.positions: AddPositionalEmbedding | None = None
        if use_abs_pos:
            self.positions = AddPositionalEmbedding(height, patch_size, hidden_size)
        self.layers = Stack(
            "{}",
            (
                WindowedTransformerEncoder(
                    hidden_size,
                    intermediate_dim,
                    num_heads,
                    use_bias,
                    use_rel_pos,
                    0 if i in global_attention_layer_indices else window_size,
                    (height // patch_size, height // patch_size),
                )
                for i in range(num_layers)
            ),
        )
        self.neck = Neck(hidden_size, num_output_channels)

    @property
    def layout(self) -> Layout:
        return Layout(
            Kind.GRAPH,
            unnamed=("patching", "positions", "neck"),
            assigned=("neck", "patching", "positions", "layers"),
        )

    def forward(self, images: Images) -> torch.Tensor:
        check_images(images, "channels_last", self.channels, (self.side, self.side))
        x = self.patching((images - images.new_tensor(MEAN)) / images.new_tensor(DEVIATION))
        if self.positions is not None:
            x = self.positions(x)
        for layer in self.layers:
            x = layer(x)
        return self.neck(x)
