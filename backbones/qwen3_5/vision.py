"""Qwen3.5's vision tower: patches of images and videos of any size → tokens of the text's width.

Shapes: P patches of all images, M images, D dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch.nn import functional as F

from .._inputs import Input
from .._model import Component
from ..layers.activations import gelu_approximate
from ..layers.attention import attend
from ..layers.convolution import Conv3D
from ..layers.core import Dense, Embedding, LayerNormalization
from ..layers.dtypes import DTypeLike
from ..layers.layer import Layer
from ..layers.layout import Kind, Layout, Stack
from ..layers.rotary import Tables, plane_tables, rotary_frequencies, rotate

PixelValues = Annotated[
    torch.Tensor,
    Input("images", ("images_batch", "patches", "frames", "height", "width", "channels")),
]
ImageGrid = Annotated[torch.Tensor, Input("ids", ("images_batch", "images", "axes"))]
EPSILON = 1e-6
WAVELENGTH = 10000.0


@dataclass(frozen=True)
class Places:
    """Where patches lie. Those of one token follow each other, then the tokens of a row.

    Attributes:
        row, column: within the image, `[P]`.
        height, width: of the image in patches, `[P]`.
        frame: counted through all images, `[P]`; frames do not see each other.
        lengths: patches of each frame; `None` where the host must not wait for the device.
    """

    row: torch.Tensor
    column: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor
    frame: torch.Tensor
    lengths: list[int] | None

    @staticmethod
    def of(grid: torch.Tensor, count: int, merge: int) -> Places:
        """The places of `count` patches.

        Args:
            grid: frames, height and width of each image, `[M, 3]`.
            merge: height and width of a token in patches.

        Raises:
            ValueError: the grid has another number of patches, or cannot be merged.
        """
        frames, height, width = grid.long().unbind(-1)
        lengths = None
        if not torch.compiler.is_compiling():
            if (grid < 0).any():
                raise ValueError("image_grid_thw must not have negative numbers.")
            lengths = (height * width).repeat_interleave(frames).tolist()
            if sum(lengths) != count:
                raise ValueError(
                    f"image_grid_thw has {sum(lengths)} patches, but pixel_values has {count}."
                )
            if (grid[:, 1:] % merge).any():
                raise ValueError(f"image_grid_thw must have sides divisible by {merge}.")
        sizes = frames * height * width
        ends = sizes.cumsum(0)
        index = torch.arange(count, device=grid.device)
        image = torch.searchsorted(ends, index, right=True)
        height, width = height[image], width[image]
        index = index - (ends - sizes)[image]
        frame, index = index // (height * width), index % (height * width)
        token, index = index // merge**2, index % merge**2
        across = width // merge
        return Places(
            token // across * merge + index // merge,
            token % across * merge + index % merge,
            height,
            width,
            (frames.cumsum(0) - frames)[image] + frame,
            lengths,
        )

    def tables(self, dim: int) -> Tables:
        """Of rotary positions in a plane; the first half of the angles tells the row."""
        frequencies = rotary_frequencies(dim // 2, WAVELENGTH, self.row.device)
        places = torch.stack((self.row, self.column), dim=-1)
        return plane_tables(places, frequencies, torch.float32)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attention within frames over `[1, heads, P, dim]`."""
        if self.lengths is None:
            return attend(q, k, v, (self.frame[:, None] == self.frame)[None, None])
        frames = zip(*(x.split(self.lengths, dim=2) for x in (q, k, v)))
        return torch.cat([attend(*frame) for frame in frames], dim=2)


class Qwen3_5VisionPatchEmbed(Layer):
    def __init__(self, in_channels: int, hidden_size: int, size: tuple[int, int, int]) -> None:
        super().__init__()
        self.proj = Conv3D(in_channels, hidden_size, size, size)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """`[P, frames, height, width, channels]` → `[P, D]`."""
        return self.proj(patches.permute(0, 4, 1, 2, 3)).flatten(1)


class Qwen3_5VisionAttention(Layer):
    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Dense(hidden_size, 3 * hidden_size)
        self.proj = Dense(hidden_size, hidden_size)

    def forward(self, x: torch.Tensor, places: Places, tables: Tables) -> torch.Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(1, 2, 0, 3).unsqueeze(1)
        q, k = rotate(q, tables).to(v.dtype), rotate(k, tables).to(v.dtype)
        x = places.attend(q, k, v)
        return self.proj(x[0].transpose(0, 1).flatten(-2))


class Qwen3_5VisionMLP(Layer):
    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.fc1 = Dense(hidden_size, intermediate_size)
        self.fc2 = Dense(intermediate_size, hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(gelu_approximate(self.fc1(x)))


class Qwen3_5VisionBlock(Layer):
    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int) -> None:
        super().__init__()
        self.norm1 = LayerNormalization(hidden_size, EPSILON)
        self.norm2 = LayerNormalization(hidden_size, EPSILON)
        self.attn = Qwen3_5VisionAttention(hidden_size, num_heads)
        self.mlp = Qwen3_5VisionMLP(hidden_size, intermediate_size)

    def forward(self, x: torch.Tensor, places: Places, tables: Tables) -> torch.Tensor:
        x = x + self.attn(self.norm1(x), places, tables)
        return x + self.mlp(self.norm2(x))


class Qwen3_5VisionPatchMerger(Layer):
    """The patches of a token, side by side, projected to the text's width."""

    layout = Layout(attributes={"ln_q": "norm", "mlp_0": "fc1", "mlp_2": "fc2"})

    def __init__(self, hidden_size: int, merge: int, out_hidden_size: int) -> None:
        super().__init__()
        self.patches = merge**2
        merged = hidden_size * self.patches
        self.ln_q = LayerNormalization(hidden_size, EPSILON)
        self.mlp_0 = Dense(merged, merged)
        self.mlp_2 = Dense(merged, out_hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.ln_q(x).unflatten(0, (-1, self.patches)).flatten(1)
        return self.mlp_2(F.gelu(self.mlp_0(x)))


class Qwen3_5VisionEncoder(Component):
    """Patches of images → tokens, one for each square of `spatial_merge_size` patches.

    It always computes in float32. The patches of a token follow each other.

    `pixel_values` `[batch, patches, temporal_patch_size, patch_size, patch_size, in_channels]` and
    `image_grid_thw` `[batch, images, 3]`, frames, height and width of each image in patches →
    `[tokens, out_hidden_size]`; only the sum over the batch must agree.

    Args:
        depth: number of blocks.
        hidden_size: width of the patches.
        num_heads: number of attention heads, a divisor of `hidden_size`.
        intermediate_size: width inside the feed-forward networks.
        in_channels: channels of the images.
        patch_size: side of a patch in pixels.
        temporal_patch_size: frames of a patch.
        spatial_merge_size: side, in patches, of the square that becomes a token.
        out_hidden_size: width of the tokens: the text model's `hidden_dim`; `None` for
            `hidden_size`.
        num_position_embeddings: rows of the position table, a square that is resampled to each
            image.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: another number of patches than the grid says, or sides that are not divisible
            by `spatial_merge_size` (unless compiled).
    """

    keras_module = "keras_hub.src.models.qwen3_5.qwen3_5_vision_encoder"
    registered_name = "Qwen3_5VisionEncoder"
    fixed_dtype = "float32"
    layout = Layout(Kind.MODEL)

    def __init__(
        self,
        depth: int,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        in_channels: int = 3,
        patch_size: int = 16,
        temporal_patch_size: int = 2,
        spatial_merge_size: int = 2,
        out_hidden_size: int | None = None,
        num_position_embeddings: int = 2304,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.out_hidden_size = out_hidden_size = out_hidden_size or hidden_size
        self.merge = spatial_merge_size
        self.head_dim = hidden_size // num_heads
        self.patch_shape = (temporal_patch_size, patch_size, patch_size, in_channels)
        self.side = math.isqrt(num_position_embeddings)
        self.patch_embed = Qwen3_5VisionPatchEmbed(
            in_channels, hidden_size, (temporal_patch_size, patch_size, patch_size)
        )
        self.pos_embed = Embedding(num_position_embeddings, hidden_size)
        self.blocks = Stack(
            "blocks_{}",
            (Qwen3_5VisionBlock(hidden_size, num_heads, intermediate_size) for _ in range(depth)),
        )
        self.merger = Qwen3_5VisionPatchMerger(hidden_size, spatial_merge_size, out_hidden_size)

    def get_config(self) -> dict[str, Any]:
        return self.arguments

    def forward(self, pixel_values: PixelValues, image_grid_thw: ImageGrid) -> torch.Tensor:
        given, wanted = tuple(pixel_values.shape[2:]), self.patch_shape
        if given != wanted or image_grid_thw.shape[2] != 3:
            raise ValueError(
                "pixel_values must have patches of temporal_patch_size, patch_size, patch_size and "
                f"in_channels, {' × '.join(map(str, wanted))}, not {' × '.join(map(str, given))}, "
                "and image_grid_thw frames, height and width of each image, not "
                f"{image_grid_thw.shape[2]} numbers."
            )
        patches = pixel_values.flatten(0, 1)
        places = Places.of(image_grid_thw.flatten(0, 1), patches.shape[0], self.merge)
        tables = places.tables(self.head_dim)
        x = self.patch_embed(patches) + self.interpolate(places)
        for block in self.blocks:
            x = block(x, places, tables)
        return self.merger(x)

    def interpolate(self, places: Places) -> torch.Tensor:
        """Position embeddings between those of the square table, `[P, D]`."""
        last = self.side - 1
        top, below = _between(places.row * last, places.height)
        left, beyond = _between(places.column * last, places.width)
        found = torch.zeros((), device=top.device)
        for row, down in ((top, 1 - below), (top + 1, below)):
            for column, right in ((left, 1 - beyond), (left + 1, beyond)):
                index = row.clamp(max=last) * self.side + column.clamp(max=last)
                found = found + self.pos_embed(index) * (down * right)[:, None]
        return found


def _between(place: torch.Tensor, size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`place / (size - 1)`, the whole part and the rest."""
    steps = (size - 1).clamp(min=1)
    whole = place // steps
    return whole, (place - whole * steps) / steps
