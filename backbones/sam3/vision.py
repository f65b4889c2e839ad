"""SAM 3's image encoder: ViTDet (arXiv:2203.16527) with rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from .._inputs import Images
from .._model import Component
from ..layers.activations import ActivationLike
from ..layers.attention import attend, merge_heads, split_heads
from ..layers.convolution import Conv2D, channels_first
from ..layers.core import Dense, Dropout, LayerNormalization
from ..layers.dtypes import DTypeLike
from ..layers.initializers import truncated_normal
from ..layers.layer import Layer
from ..layers.layout import Layout, Stack
from ..layers.rotary import Tables, rotate_pairs_wide
from ..layers.vision import (
    PositionGrid,
    check_at_least,
    check_sides,
    embed_patches,
    image_channels,
    join_windows,
    partition_windows,
)
from .neck import SAM3VisionNeck
from .parts import SAM3MLP


class SAM3PatchEmbedding(Layer):
    def __init__(self, channels: int, hidden_dim: int, patch_size: int) -> None:
        super().__init__()
        self.projection = Conv2D(channels, hidden_dim, patch_size, patch_size, use_bias=False)


class SAM3Embedding(PositionGrid):
    """Patches, each with its position's vector.

    There are two tables: `position_embeddings`, for the images of pretraining, and
    `tiled_position_embeddings`, which the model computes with and trains. A file's first one,
    repeated over the image, gives the second one, as in KerasHub.

    Args:
        table_size: height and width that `position_embeddings` are for, in pixels.
    """

    position_embeddings: torch.Tensor

    def __init__(
        self,
        hidden_dim: int,
        patch_size: int,
        image_size: tuple[int, int],
        channels: int,
        dropout_rate: float,
        table_size: tuple[int, int],
    ) -> None:
        super().__init__(image_size, (patch_size, patch_size))
        self.table_grid = (table_size[0] // patch_size, table_size[1] // patch_size)
        places = self.table_grid[0] * self.table_grid[1]
        self.tiled_position_embeddings = nn.Parameter(torch.empty(1, self.num_patches, hidden_dim))
        self.register_buffer("position_embeddings", torch.empty(1, places, hidden_dim))
        truncated_normal(0.02)(self.position_embeddings, 1, 1)
        self.loaded()
        self.patch_embeddings = SAM3PatchEmbedding(channels, hidden_dim, patch_size)
        self.dropout = Dropout(dropout_rate)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[batch, height, width, channels]` → `[batch, rows, columns, hidden_dim]`."""
        conv = self.patch_embeddings.projection
        x = embed_patches(images, conv, "channels_last", self.image_size)
        x = x + self.tiled_position_embeddings.to(x.dtype)
        return self.dropout(x).unflatten(1, self.grid)

    def tables(self) -> dict[str, int]:
        return {"tiled_position_embeddings": 0}

    def resample(self, name: str, old: PositionGrid) -> torch.Tensor:
        assert isinstance(old, SAM3Embedding)
        return tiled(old.merged_tensor("position_embeddings"), old.table_grid, self.grid)

    @torch.no_grad()
    def loaded(self) -> None:
        table = tiled(self.position_embeddings, self.table_grid, self.grid)
        self.tiled_position_embeddings.copy_(table)

    @torch.no_grad()
    def merged_tensor(self, name: str) -> torch.Tensor:
        """What a file holds: where the second table was trained, the first one follows from it."""
        tensor = getattr(self, name)
        if name != "position_embeddings" or tensor.is_meta:
            return tensor
        trained = self.tiled_position_embeddings
        if torch.equal(tiled(tensor, self.table_grid, self.grid), trained):
            return tensor
        return tiled(trained, self.grid, self.table_grid)


def tiled(table: torch.Tensor, grid: Sequence[int], new_grid: Sequence[int]) -> torch.Tensor:
    """A table `[1, rows · columns, dim]` side by side with itself, for a grid of another size."""
    down, right = (-(-new // old) for new, old in zip(new_grid, grid))
    places = table.unflatten(1, tuple(grid)).tile(1, down, right, 1)
    return places[:, : new_grid[0], : new_grid[1]].flatten(1, 2)


class SAM3ViTRotaryEmbedding(PositionGrid):
    """Cosines and sines of the places of a map or a window, which are stored though not trained.

    Args:
        grid: height and width.
        scale: what a step from one place to the next counts.
    """

    fixed_dtype = "float32"
    rope_embeddings_cos: torch.Tensor
    rope_embeddings_sin: torch.Tensor

    def __init__(self, theta: float, head_dim: int, grid: tuple[int, int], scale: float) -> None:
        super().__init__(grid, (1, 1))
        self.theta = theta
        self.head_dim = head_dim
        self.scale = scale
        angles = self.angles()
        self.register_buffer("rope_embeddings_cos", angles.cos())
        self.register_buffer("rope_embeddings_sin", angles.sin())

    def angles(self, device: torch.device | None = None) -> torch.Tensor:
        """`[places, head_dim]`: half of them of columns, half of rows."""
        dim = self.head_dim
        exponents = torch.arange(0, dim, 4, dtype=torch.float64, device=device) / dim
        frequencies = self.theta**-exponents
        # As in KerasHub a row ends after as many places as there are rows, so in maps that are no
        # squares places are taken for others.
        places = torch.arange(self.num_patches, device=device)
        x, y = places % self.grid[0], places // self.grid[0]
        angles = [(along * self.scale)[:, None] * frequencies for along in (x, y)]
        return torch.cat(angles, dim=-1).float().repeat_interleave(2, dim=-1)

    def forward(self) -> Tables:
        return self.rope_embeddings_cos, self.rope_embeddings_sin

    def tables(self) -> dict[str, int]:
        return {"rope_embeddings_cos": 0, "rope_embeddings_sin": 0}

    def resample(self, name: str, old: PositionGrid) -> torch.Tensor:
        table = getattr(old, name)
        if old.grid == self.grid:
            return table
        angles = self.angles(table.device)
        return (angles.cos() if name == "rope_embeddings_cos" else angles.sin()).to(table.dtype)


class SAM3RoPEAttention(Layer):
    """Attention among all places of a map."""

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Dense(hidden_dim, hidden_dim)
        self.k_proj = Dense(hidden_dim, hidden_dim)
        self.v_proj = Dense(hidden_dim, hidden_dim)
        self.o_proj = Dense(hidden_dim, hidden_dim)

    def forward(self, x: torch.Tensor, tables: Tables) -> torch.Tensor:
        """`[batch, height, width, dim]` → the same."""
        height, width = x.shape[1:3]
        x = x.flatten(1, 2)
        query = split_heads(self.q_proj(x), self.num_heads)
        key = split_heads(self.k_proj(x), self.num_heads)
        value = split_heads(self.v_proj(x), self.num_heads)
        query, key = (rotate_pairs_wide(one, tables).to(one.dtype) for one in (query, key))
        x = merge_heads(attend(query, key, value))
        return self.o_proj(x).unflatten(1, (height, width))


class SAM3ViTLayer(Layer):
    """A block whose attention stays within windows.

    Args:
        window_size: side of a window; 0 for attention in the whole map.
        grid: height and width of the map.
        scale: of positions.
    """

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        activation: ActivationLike,
        dropout: float,
        epsilon: float,
        theta: float,
        window_size: int,
        grid: tuple[int, int],
        scale: float,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        size = (window_size, window_size) if window_size else grid
        self.layer_norm1 = LayerNormalization(hidden_dim, epsilon)
        self.rotary_emb = SAM3ViTRotaryEmbedding(theta, hidden_dim // num_heads, size, scale)
        self.attention = SAM3RoPEAttention(hidden_dim, num_heads)
        self.layer_norm2 = LayerNormalization(hidden_dim, epsilon)
        self.mlp = SAM3MLP(hidden_dim, intermediate_dim, activation, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, tables = self.layer_norm1(x), self.rotary_emb()
        if self.window_size:
            windows = self.attention(partition_windows(y, self.window_size), tables)
            y = join_windows(windows, *x.shape[1:3])
        else:
            y = self.attention(y, tables)
        x = x + y
        return x + self.dropout(self.mlp(self.layer_norm2(x)))


class SAM3ViTEncoder(Layer):
    def __init__(
        self, embeddings: SAM3Embedding, norm: LayerNormalization, layers: Sequence[SAM3ViTLayer]
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layer_norm = norm
        self.layers = Stack("layer_{}", layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[batch, height, width, channels]` → `[batch, rows, columns, hidden_dim]`."""
        x = self.layer_norm(self.embeddings(images))
        for layer in self.layers:
            x = layer(x)
        return x


class SAM3VisionEncoder(Component):
    """Images `[batch, height, width, channels]` → a list of maps
    `[batch, fpn_hidden_dim, factor · rows, factor · columns]`, one for each of `fpn_scale_factors`.

    Args:
        image_shape: height, width and channels of the images.
        patch_size: side of a patch in pixels; what patches do not fill is left out.
        num_layers: number of blocks.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        num_heads: number of attention heads, each of a multiple of four dimensions.
        fpn_hidden_dim: channels of the maps.
        fpn_scale_factors: of the maps' resolutions for that of the patches: 4, 2, 1 or 0.5.
        pretrain_image_shape: of the images that the position table is for; it is repeated over
            larger ones.
        hidden_activation: of the feed-forward networks.
        rope_theta: longest wavelength of the rotary positions.
        window_size: side of a window in patches; 0 for attention to the whole image in all blocks.
        global_attn_indexes: blocks, counted from 0, that attend to the whole image; `None` for
            none of them.
        attention_dropout_rate: without effect, as in KerasHub.
        hidden_dropout_rate: of hidden states, in training mode.
        layer_norm_epsilon: of all norms.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: heads of a width that is no multiple of four, images that patches and windows do
            not fill, unknown factors; images of another shape.
    """

    layout = Layout()
    keras_module = "keras_hub.src.models.sam3.sam3_vision_encoder"
    resampled: ClassVar = ("image_shape",)
    maps_format: ClassVar = "channels_last"

    def __init__(
        self,
        image_shape: Sequence[int],
        patch_size: int,
        num_layers: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        fpn_hidden_dim: int,
        fpn_scale_factors: Sequence[float],
        pretrain_image_shape: Sequence[int] = (336, 336, 3),
        hidden_activation: ActivationLike = "gelu",
        rope_theta: float = 10000.0,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] | None = None,
        attention_dropout_rate: float = 0.0,
        hidden_dropout_rate: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if hidden_dim % (4 * num_heads):
            raise ValueError(
                f"hidden_dim={hidden_dim} must be num_heads={num_heads} times a multiple of 4: "
                "positions turn pairs of dimensions, as many for rows as for columns."
            )
        if not set(fpn_scale_factors) <= {4.0, 2.0, 1.0, 0.5}:
            raise ValueError(
                f"fpn_scale_factors={fpn_scale_factors} must be of 4.0, 2.0, 1.0 and 0.5."
            )
        channels = image_channels(image_shape, "channels_last")
        check_at_least(patch_size, image_shape=image_shape[:2])
        check_sides(pretrain_image_shape=pretrain_image_shape)
        check_at_least(patch_size, pretrain_image_shape=pretrain_image_shape[:2])
        height, width = image_shape[:2]
        self.grid = (height // patch_size, width // patch_size)
        if min(self.grid) * min(fpn_scale_factors, default=1) < 1:
            raise ValueError(
                f"image_shape={tuple(image_shape)} has {self.grid[0]} × {self.grid[1]} patches, "
                f"too few for fpn_scale_factors={tuple(fpn_scale_factors)}."
            )
        everywhere = global_attn_indexes or ()
        sizes = [0 if i in everywhere else window_size for i in range(num_layers)]
        if any(size and (self.grid[0] % size or self.grid[1] % size) for size in sizes):
            raise ValueError(
                f"image_shape={tuple(image_shape)} has {self.grid[0]} × {self.grid[1]} patches, of "
                f"which window_size={window_size} must divide both."
            )
        table_height, table_width = pretrain_image_shape[:2]
        embeddings = SAM3Embedding(
            hidden_dim,
            patch_size,
            (height, width),
            channels,
            hidden_dropout_rate,
            (table_height, table_width),
        )
        layers = [
            SAM3ViTLayer(
                hidden_dim,
                intermediate_dim,
                num_heads,
                hidden_activation,
                hidden_dropout_rate,
                layer_norm_epsilon,
                rope_theta,
                size,
                self.grid,
                window_size / self.grid[0] if i in everywhere else 1.0,
            )
            for i, size in enumerate(sizes)
        ]
        norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.backbone = SAM3ViTEncoder(embeddings, norm, layers)
        self.vision_neck = SAM3VisionNeck(hidden_dim, fpn_hidden_dim, fpn_scale_factors)

    def forward(self, pixel_values: Images) -> list[torch.Tensor]:
        x = self.backbone(pixel_values)
        return self.vision_neck(channels_first(x, "channels_last"))
