"""Swin Transformer (arXiv:2103.14030)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import Images
from .layers.activations import gelu
from .layers.attention import attend, merge_heads, split_heads
from .layers.convolution import Conv2D, channels_back, channels_first, check_data_format
from .layers.core import Dense, Dropout, LayerNormalization
from .layers.dtypes import DTypeLike
from .layers.initializers import truncated_normal, variance_scaling
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.vision import (
    DropPath,
    check_at_least,
    check_equally_long,
    check_images,
    image_channels,
    join_windows,
    partition_windows,
    window_offsets,
)

EPSILON = 1e-5


class PatchEmbedding(Layer):
    layout = Layout(names={"proj": "conv_projection"})

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        patch_size: int,
        embed_dim: int,
        patch_norm: bool,
        data_format: str,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.data_format = data_format
        lecun_normal = variance_scaling(1.0, "fan_in", "truncated_normal")
        self.proj = Conv2D(
            channels, embed_dim, patch_size, patch_size, kernel_initializer=lecun_normal
        )
        self.norm = LayerNormalization(embed_dim, EPSILON) if patch_norm else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[batch, height, width, channels]` → `[batch, rows, columns, embed_dim]`."""
        check_images(images, self.data_format, self.proj.in_channels, self.image_size)
        x = self.proj(channels_first(images, self.data_format))
        x = channels_back(x, "channels_last")
        return x if self.norm is None else self.norm(x)


class WindowAttention(Layer):
    """Attention within windows, with a learned bias for each relative position."""

    layout = Layout(
        names={"qkv": "attention_qkv", "proj": "attention_projection"}, built_on_call=True
    )
    compute_dtype: torch.dtype | None = None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        qkv_bias: bool,
        dropout_rate: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window_size - 1) ** 2, num_heads)
        )
        truncated_normal(0.02)(self.relative_position_bias_table, 1, 1)
        self.qkv = Dense(dim, 3 * dim, qkv_bias)
        self.attention_dropout = Dropout(attention_dropout)
        self.proj = Dense(dim, dim)
        self.proj_drop = Dropout(dropout_rate)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """`[batch · windows, positions, dim]`; `mask` `[windows, 1, positions, positions]`."""
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        offsets = window_offsets(self.window_size, x.device)
        # [heads, positions, positions]
        bias = self.relative_position_bias_table[offsets].permute(2, 0, 1).to(q.dtype)
        if mask is not None:
            bias = (bias + mask.to(q.dtype)).repeat(x.shape[0] // mask.shape[0], 1, 1, 1)
        dropout = self.attention_dropout.p if self.training else 0.0
        return self.proj_drop(self.proj(merge_heads(attend(q, k, v, bias, dropout=dropout))))


class Mlp(Layer):
    def __init__(self, dim: int, hidden_dim: int, dropout_rate: float) -> None:
        super().__init__()
        self.fc1 = Dense(dim, hidden_dim)
        self.fc2 = Dense(hidden_dim, dim)
        self.dropout = Dropout(dropout_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.fc2(self.dropout(gelu(self.fc1(x)))))


class SwinTransformerBlock(Layer):
    """Attention in windows and a feed-forward network.

    Args:
        shift: how far the windows are moved, in positions.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        shift: int,
        mlp_ratio: float,
        qkv_bias: bool,
        dropout_rate: float,
        attention_dropout: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = shift
        self.norm1 = LayerNormalization(dim, EPSILON)
        self.attn = WindowAttention(
            dim, num_heads, window_size, qkv_bias, dropout_rate, attention_dropout
        )
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = LayerNormalization(dim, EPSILON)
        self.mlp = Mlp(dim, int(dim * mlp_ratio) or dim, dropout_rate)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """`[batch, rows, columns, dim]`; `mask` hides what a shift has brought side by side."""
        x = x + self.drop_path(self.attend(self.norm1(x), mask if self.shift else None))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        size, (rows, columns) = self.window_size, x.shape[1:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        windows = self.attn(partition_windows(x, size).flatten(1, 2), mask)
        # As in KerasHub, what fills the last windows up is moved back with the rest.
        filled = -(-rows // size) * size, -(-columns // size) * size
        x = join_windows(windows.unflatten(1, (size, size)), *filled)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :rows, :columns]


class PatchMerging(Layer):
    """Four neighbours become one of twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = Dense(4 * dim, 2 * dim, use_bias=False)
        self.norm = LayerNormalization(4 * dim, EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, rows, columns, dim]` → `[batch, rows / 2, columns / 2, 2 · dim]`."""
        corners = (x[:, i::2, j::2] for j in (0, 1) for i in (0, 1))
        return self.reduction(self.norm(torch.cat(tuple(corners), dim=-1)))


class SwinTransformerStage(Layer):
    def __init__(
        self,
        blocks: Sequence[SwinTransformerBlock],
        window_size: int,
        downsample: PatchMerging | None,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = max((block.shift for block in blocks), default=0)
        self.blocks = Stack("blocks_{}", blocks)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = None
        if self.shift:
            mask = shift_mask(x.shape[1], x.shape[2], self.window_size, self.shift, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x if self.downsample is None else self.downsample(x)


def shift_mask(
    rows: int, columns: int, window_size: int, shift: int, device: torch.device
) -> torch.Tensor:
    """-100 between positions that only the shift has made neighbours, else 0.

    `[windows, 1, positions, positions]`.
    """

    def regions(side: int) -> torch.Tensor:
        place = torch.arange(side, device=device)
        return (place >= side - window_size).int() + (place >= side - shift).int()

    region = 3 * regions(rows)[:, None] + regions(columns)
    windows = partition_windows(region[None, :, :, None], window_size).flatten(1)
    return -100.0 * (windows[:, None, :, None] != windows[:, None, None, :])


class SwinTransformerBackbone(Backbone):
    """Swin Transformer: attention within windows, which every second block shifts, in stages of
    half the resolution each.

    Images `[batch, height, width, channels]` → `[batch, positions, dim]`: those of the last stage,
    row by row.

    Args:
        image_shape: height, width and channels of the images, in the order of `data_format`.
            KerasHub fails with `channels_first`.
        embed_dim: width in the first stage; each stage has twice that of the one before.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window_size: side of a window, in patches.
        patch_size: side of a patch in pixels. What patches do not fill of an image is left out.
        mlp_ratio: how many times wider the feed-forward networks are inside.
        qkv_bias: whether queries, keys and values have biases.
        dropout_rate: of hidden states, in training mode.
        attention_dropout: of attention probabilities, in training mode.
        drop_path: of whole residual branches in training mode, in the last block; it rises evenly
            from 0 in the first one.
        patch_norm: whether a norm follows the patches' projection.
        data_format: `channels_last` or `channels_first`, of images; `None` for the first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an `image_shape` without height and width, of which a stage would be odd, or
            smaller than a window of its blocks; `depths` and `num_heads` of different lengths, or
            heads that do not divide the width; images of another shape.
    """

    maps_format: ClassVar = "channels_last"
    depths: Sequence[int]

    def __init__(
        self,
        image_shape: Sequence[int],
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        patch_size: int = 4,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        dropout_rate: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.1,
        patch_norm: bool = True,
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_equally_long(depths=depths, num_heads=num_heads)
        check_at_least(1, embed_dim=embed_dim, num_heads=num_heads, window_size=window_size)
        check_at_least(1, patch_size=patch_size)
        check_at_least(0, depths=depths)
        self.data_format = check_data_format(data_format)
        channels = image_channels(image_shape, self.data_format)
        size = image_shape[:2] if self.data_format == "channels_last" else image_shape[1:]
        self.num_stages = len(depths)
        self.check_sizes(size, patch_size, window_size)
        self.patch_embedding = PatchEmbedding(
            (size[0], size[1]), channels, patch_size, embed_dim, patch_norm, self.data_format
        )
        self.pos_drop = Dropout(dropout_rate)
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        for i, (depth, heads) in enumerate(zip(depths, num_heads)):
            dim = embed_dim * 2**i
            if depth and dim % heads:
                raise ValueError(
                    f"num_heads={num_heads} must divide the stages' widths, embed_dim={embed_dim} "
                    "and its doubles."
                )
            smaller = min(size) // patch_size // 2**i > window_size
            before = sum(depths[:i])
            blocks = [
                SwinTransformerBlock(
                    dim,
                    heads,
                    window_size,
                    window_size // 2 if smaller and j % 2 else 0,
                    mlp_ratio,
                    qkv_bias,
                    dropout_rate,
                    attention_dropout,
                    rates[before + j],
                )
                for j in range(depth)
            ]
            last = i == len(depths) - 1
            stage = SwinTransformerStage(blocks, window_size, None if last else PatchMerging(dim))
            self.add_module(f"stage_{i}", stage)
        self.norm = LayerNormalization(embed_dim * 2 ** (len(depths) - 1), EPSILON)

    def check_sizes(self, size: Sequence[int | None], patch_size: int, window_size: int) -> None:
        """Refuse images of which a stage cannot be cut into windows or halved."""
        if None in size:
            raise ValueError(f"image_shape={self.image_shape} needs a height and a width.")
        stages = self.num_stages
        least = max((2**i * window_size for i in range(stages) if self.depths[i]), default=1)
        for side in size:
            patches = (side or 0) // patch_size
            if patches % 2 ** (stages - 1) or patches < least:
                raise ValueError(
                    f"image_shape={self.image_shape} is {patches} patches of patch_size="
                    f"{patch_size} in height or width; it must be a multiple of "
                    f"{2 ** (stages - 1)}, for {stages} stages, of at least {least}, for "
                    f"window_size={window_size}."
                )

    def forward(self, images: Images) -> torch.Tensor:
        x = self.pos_drop(self.patch_embedding(images))
        for i in range(self.num_stages):
            x = self.get_submodule(f"stage_{i}")(x)
        return self.norm(x.flatten(1, 2))
