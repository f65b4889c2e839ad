"""DINOv2 (arXiv:2304.07193), with registers (arXiv:2309.16588) too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ._backbone import FeaturePyramidBackbone
from ._configuration import snake_case
from ._inputs import Images
from .layers.activations import gelu
from .layers.attention import MultiHeadAttention
from .layers.convolution import Conv2D, check_data_format
from .layers.core import Dense, Dropout, LayerNormalization
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.initializers import truncated_normal
from .layers.layer import Layer
from .layers.layout import Kind, Layout, Stack
from .layers.pyramid import Level
from .layers.transformer import head_dim
from .layers.vision import (
    DropPath,
    LayerScale,
    PositionGrid,
    embed_patches,
    image_channels,
    resample_positions,
)

initializer = truncated_normal(0.02)


class DINOV2PatchEmbedding(Layer):
    def __init__(self, channels: int, hidden_dim: int, patch_size: int) -> None:
        super().__init__()
        self.projection = Conv2D(
            channels, hidden_dim, patch_size, patch_size, kernel_initializer=initializer
        )


class DINOV2Embedding(PositionGrid):
    """Class token, registers and patches, all but the registers with a position's vector.

    There are two tables: `position_embeddings`, those of a preset, for images of its size, and
    `interpolated_position_embeddings`, which the model computes with and trains. A file's first one
    gives the second one, as in KerasHub.

    Args:
        table_size: height and width that `position_embeddings` are for, in pixels.
    """

    compute_dtype: torch.dtype | None = None

    def __init__(
        self,
        hidden_dim: int,
        patch_size: int,
        image_size: tuple[int, int],
        channels: int,
        num_register_tokens: int,
        use_mask_token: bool,
        dropout_rate: float,
        table_size: tuple[int, int],
        antialias: bool,
        data_format: str,
    ) -> None:
        super().__init__(image_size, (patch_size, patch_size))
        self.table_grid = (table_size[0] // patch_size, table_size[1] // patch_size)
        self.antialias = antialias
        self.data_format = data_format
        self.cls_token = nn.Parameter(torch.empty(1, 1, hidden_dim))
        initializer(self.cls_token, 1, 1)
        if use_mask_token:  # of training's objective; it has no part in `forward`
            self.mask_token = nn.Parameter(torch.zeros(1, hidden_dim))
        self.register_tokens: nn.Parameter | None = None
        if num_register_tokens > 0:
            self.register_tokens = nn.Parameter(torch.zeros(1, num_register_tokens, hidden_dim))
        self.interpolated_position_embeddings = nn.Parameter(
            torch.empty(1, 1 + self.num_patches, hidden_dim)
        )
        positions = 1 + self.table_grid[0] * self.table_grid[1]
        self.register_buffer("position_embeddings", torch.empty(1, positions, hidden_dim))
        initializer(self.position_embeddings, 1, 1)
        self.loaded()
        self.patch_embeddings = DINOV2PatchEmbedding(channels, hidden_dim, patch_size)
        self.dropout = Dropout(dropout_rate)

    position_embeddings: torch.Tensor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[batch, height, width, channels]` → `[batch, 1 + registers + patches, hidden_dim]`."""
        conv = self.patch_embeddings.projection
        patches = embed_patches(images, conv, self.data_format, self.image_size)
        dtype, batch = patches.dtype, patches.shape[0]
        positions = self.interpolated_position_embeddings.to(dtype)
        token = self.cls_token.to(dtype) + positions[:, :1]
        parts = [token.expand(batch, -1, -1), patches + positions[:, 1:]]
        if self.register_tokens is not None:
            parts.insert(1, self.register_tokens.to(dtype).expand(batch, -1, -1))
        return self.dropout(torch.cat(parts, dim=1))

    def tables(self) -> dict[str, int]:
        return {"interpolated_position_embeddings": 1}

    def resample(self, name: str, old: PositionGrid) -> torch.Tensor:
        assert isinstance(old, DINOV2Embedding)
        return self.resampled(old.merged_tensor("position_embeddings"), old.table_grid, self.grid)

    def resampled(
        self, table: torch.Tensor, grid: Sequence[int], new_grid: Sequence[int]
    ) -> torch.Tensor:
        # Keras's torch backend antialiases as torch does; TensorFlow's kernel is another one.
        return resample_positions(table[0], grid, new_grid, 1, self.antialias)[None]

    @torch.no_grad()
    def loaded(self) -> None:
        table = self.resampled(self.position_embeddings, self.table_grid, self.grid)
        self.interpolated_position_embeddings.copy_(table)

    @torch.no_grad()
    def merged_tensor(self, name: str) -> torch.Tensor:
        """What a file holds: where the second table was trained, the first one follows from it."""
        tensor = getattr(self, name)
        if name != "position_embeddings" or tensor.is_meta:
            return tensor
        trained = self.interpolated_position_embeddings
        if torch.equal(self.resampled(tensor, self.table_grid, self.grid), trained):
            return tensor
        return self.resampled(trained, self.grid, self.table_grid)


class DINOV2Attention(Layer):
    def __init__(self, hidden_dim: int, num_heads: int, dropout_rate: float) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(
            num_heads, hidden_dim, head_dim(hidden_dim, num_heads), dropout_rate
        )
        self.dropout = Dropout(dropout_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.attention(x, x))


class DINOV2MLP(Layer):
    division = Division(("fc1",), ("fc2",))

    def __init__(self, hidden_dim: int, intermediate_dim: int) -> None:
        super().__init__()
        self.fc1 = Dense(hidden_dim, intermediate_dim, kernel_initializer=initializer)
        self.fc2 = Dense(intermediate_dim, hidden_dim, kernel_initializer=initializer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(gelu(self.fc1(x)))


class DINOV2SwiGLUFFN(Layer):
    division = Division(("weights_in",), ("weights_out",), {"weights_in": 2})

    def __init__(self, hidden_dim: int, intermediate_dim: int) -> None:
        super().__init__()
        width = (int(intermediate_dim * 2 / 3) + 7) // 8 * 8
        self.weights_in = Dense(hidden_dim, 2 * width, kernel_initializer=initializer)
        self.weights_out = Dense(width, hidden_dim, kernel_initializer=initializer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, x = self.weights_in(x).chunk(2, dim=-1)
        return self.weights_out(F.silu(gate) * x)


class DINOV2Layer(Layer):
    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        layer_scale_init_value: float,
        use_swiglu_ffn: bool,
        dropout_rate: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        feed_forward = DINOV2SwiGLUFFN if use_swiglu_ffn else DINOV2MLP
        self.norm1 = LayerNormalization(hidden_dim, 1e-6)
        self.attention = DINOV2Attention(hidden_dim, num_heads, dropout_rate)
        self.layer_scale1 = LayerScale(hidden_dim, layer_scale_init_value)
        # KerasHub's own never drops a sample: it forgets to round.
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = LayerNormalization(hidden_dim, 1e-6)
        self.mlp = feed_forward(hidden_dim, intermediate_dim)
        self.layer_scale2 = LayerScale(hidden_dim, layer_scale_init_value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.layer_scale1(self.attention(self.norm1(x))))
        return x + self.drop_path(self.layer_scale2(self.mlp(self.norm2(x))))


class DINOV2Encoder(Layer):
    def __init__(self, layers: Sequence[DINOV2Layer]) -> None:
        super().__init__()
        self.layers = Stack("layers_{}", layers)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What each block gives."""
        seen = []
        for layer in self.layers:
            x = layer(x)
            seen.append(x)
        return seen


class DINOV2Backbone(FeaturePyramidBackbone):
    """Vision Transformer with layer scales and, in some presets, registers.

    Images `[batch, height, width, channels]` → `[batch, 1 + registers + patches, hidden_dim]`;
    `pyramid_outputs` has the same of the embeddings (`stem`) and behind each block (`stage1`, …).

    Args:
        patch_size: side of a patch in pixels.
        num_layers: number of blocks.
        hidden_dim: width of the hidden states.
        num_heads: number of attention heads.
        intermediate_dim: width inside the feed-forward networks; SwiGLU has two thirds of it.
        layer_scale_init_value: what the layer scales begin with.
        num_register_tokens: learned tokens between class token and patches.
        use_mask_token: whether there is a mask token, which training by masked patches uses.
        use_swiglu_ffn: whether feed-forward networks are SwiGLU in place of gelu.
        dropout_rate: of hidden states and attention probabilities, in training mode.
        drop_path_rate: of whole residual branches, in training mode.
        image_shape: height, width and channels of the images, in the order of `data_format`;
            KerasHub takes squares only.
        position_embedding_shape: likewise of the images that a preset's positions are for; they are
            resampled, by cubic curves in float32.
        antialias_in_interpolation: whether that smoothes where it shrinks.
        apply_layernorm: whether the final norm goes over all `pyramid_outputs`.
        data_format: `channels_last` or `channels_first`, of images; `None` for the first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an `image_shape` without height and width, or smaller than a patch; images of
            another shape.
    """

    unsaved: ClassVar = {"data_format": (None, "channels_last")}
    resampled: ClassVar = ("image_shape",)

    def __init__(
        self,
        patch_size: int,
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        layer_scale_init_value: float = 1.0,
        num_register_tokens: int = 0,
        use_mask_token: bool = True,
        use_swiglu_ffn: bool = False,
        dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        image_shape: Sequence[int] = (224, 224, 3),
        position_embedding_shape: Sequence[int] = (518, 518, 3),
        antialias_in_interpolation: bool = False,
        apply_layernorm: bool = False,
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.data_format = check_data_format(data_format)
        first = 0 if self.data_format == "channels_last" else 1
        sizes = []
        for key in ("image_shape", "position_embedding_shape"):
            size: Sequence[int] = getattr(self, key)[first : first + 2]
            height, width = size if len(size) == 2 else (0, 0)
            if not height or not width or min(height, width) < patch_size:
                raise ValueError(
                    f"{key}={getattr(self, key)} needs a height and a width of at least a patch, "
                    f"{patch_size}."
                )
            sizes.append((height, width))
        # Keras's layers have a name that the model is given before theirs. Where it is the one that
        # presets have of a model without a name, so it is here.
        self.named = self.name != snake_case(DINOV2Backbone.__name__)
        self.embeddings = DINOV2Embedding(
            hidden_dim,
            patch_size,
            sizes[0],
            image_channels(image_shape, self.data_format),
            num_register_tokens,
            use_mask_token,
            dropout_rate,
            sizes[1],
            antialias_in_interpolation,
            self.data_format,
        )
        self.encoder = DINOV2Encoder(
            [
                DINOV2Layer(
                    hidden_dim,
                    num_heads,
                    intermediate_dim,
                    layer_scale_init_value,
                    use_swiglu_ffn,
                    dropout_rate,
                    drop_path_rate,
                )
                for _ in range(num_layers)
            ]
        )
        self.layernorm = LayerNormalization(hidden_dim, 1e-6)
        names = ("stem", *(f"stage{i + 1}" for i in range(num_layers)))
        self.levels = [Level(name, hidden_dim, patch_size) for name in names]

    @property
    def layout(self) -> Layout:
        return Layout(Kind.GRAPH, prefix="{}_" if self.named else "")

    def pyramid_levels(self) -> list[Level]:
        return self.levels

    def forward_pyramid(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.embeddings(images)
        seen = [x, *self.encoder(x)]
        if self.apply_layernorm:
            seen = [self.layernorm(x) for x in seen]
        return {level.name: x for level, x in zip(self.levels, seen)}

    def forward(self, images: Images) -> torch.Tensor:
        x = self.embeddings(images)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.layernorm(x)
