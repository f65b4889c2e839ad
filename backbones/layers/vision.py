"""What vision models share besides convolutions: checks of images, patches, positions, windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .convolution import Conv2D, Size, channels_first, pair, resize
from .core import Embedding
from .layer import Layer


def image_channels(
    image_shape: Sequence[int | None], data_format: str, argument: str = "image_shape"
) -> int:
    """The channels in `image_shape`, a height, a width and channels in the order of `data_format`.

    `None` of them is 3.

    Args:
        argument: what an error calls it.

    Raises:
        ValueError: other than three sizes, or those of the other order.
    """
    if len(image_shape) != 3:
        raise ValueError(f"{argument}={image_shape} must have a height, a width and channels.")
    channels, other = image_shape[-1], image_shape[0]
    if data_format == "channels_first":
        channels, other = other, channels
    # Few rows and a side of many pixels in the place of the channels.
    if other is not None and other <= 4 and (channels is None or channels > 16):
        raise ValueError(
            f"{argument}={tuple(image_shape)} does not go with data_format={data_format!r}, by "
            f"which it has {channels} channels."
        )
    return channels or 3


def check_sides(**shapes: Sequence[int | None]) -> None:
    """Refuse arguments that do not begin with a height and a width.

    Raises:
        ValueError: it names the argument.
    """
    for name, shape in shapes.items():
        if len(shape) < 2 or None in shape[:2]:
            raise ValueError(f"{name}={shape} must begin with a height and a width.")


def check_choice(choices: Iterable[str | None], **argument: str | None) -> None:
    """Refuse an argument, given by its name, that is none of the choices.

    Raises:
        ValueError: it names the argument, its value and the choices.
    """
    for name, value in argument.items():
        if value not in choices:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(map(str, choices))}.")


def check_equally_long(**lists: Sequence[object]) -> None:
    """Refuse arguments of different lengths.

    Raises:
        ValueError: it names them all.
    """
    if len({len(values) for values in lists.values()}) > 1:
        given = ", ".join(f"{name}={values}" for name, values in lists.items())
        raise ValueError(f"These must be equally long: {given}.")


def check_at_least(least: int, **values: int | Sequence[int]) -> None:
    """Refuse smaller numbers.

    Raises:
        ValueError: it names the argument.
    """
    for name, value in values.items():
        if min([value] if isinstance(value, int) else value, default=least) < least:
            raise ValueError(f"{name}={value} must be at least {least}.")


def check_images(
    images: torch.Tensor,
    data_format: str,
    channels: int,
    size: Sequence[int | None] = (None, None),
    multiple_of: int | Sequence[int] = 1,
    at_least: int | Sequence[int] = 1,
) -> None:
    """Refuse images that a model cannot take, at the beginning of its `forward`.

    Args:
        size: height and width, `None` for any.
        multiple_of: what height and width must be divisible by.
        at_least: the smallest height and width, or one number for both, of which every layer leaves
            a pixel; where convolutions and pools are padded any will do.

    Raises:
        ValueError: other sizes or channels; the message has both.
    """
    given = tuple(images.shape[-3:])
    if data_format == "channels_first":
        given = (*given[1:], given[0])
    wanted = (*size, channels)
    if any(want is not None and want != have for want, have in zip(wanted, given)):
        sizes = " × ".join(["any" if want is None else f"{want}" for want in wanted])
        raise ValueError(
            f"Images must be of height, width and channels {sizes}, but by data_format="
            f"{data_format!r} those of shape {tuple(images.shape)} are "
            f"{given[0]} × {given[1]} × {given[2]}."
        )
    steps = pair(multiple_of)
    if given[0] % steps[0] or given[1] % steps[1]:
        raise ValueError(
            f"Images must have a height and a width divisible by {steps[0]} and {steps[1]}, not "
            f"{given[0]} × {given[1]}."
        )
    least = pair(at_least)
    if given[0] < least[0] or given[1] < least[1]:
        wanted_least = " and ".join(map(str, dict.fromkeys(least)))
        raise ValueError(
            f"Images must have a height and a width of at least {wanted_least}, not "
            f"{given[0]} × {given[1]}; enlarge them."
        )


class Window(NamedTuple):
    """What of a map a convolution or a pool sees at once.

    Attributes:
        extent, stride: in pixels.
        padding: pixels at both ends together.
    """

    extent: Size
    stride: Size = 1
    padding: int = 0


def smallest_seen(windows: Sequence[Window], axis: int = 0) -> int:
    """The height (or width, `axis` 1) of images of which these windows, one after the other, leave
    at least one pixel.
    """
    side = 1
    for extent, stride, padding in reversed(windows):
        side = max(1, (side - 1) * pair(stride)[axis] + pair(extent)[axis] - padding)
    return side


def smallest_side(convolutions: Iterable[nn.Conv2d]) -> int:
    """Of the images that these convolutions, one after the other, make at least one pixel of."""
    windows = []
    for conv in convolutions:
        extent = (conv.kernel_size[0] - 1) * conv.dilation[0] + 1
        padding = extent - 1 if conv.padding == "same" else 2 * int(conv.padding[0])
        windows.append(Window(extent, conv.stride[0], padding))
    return smallest_seen(windows)


def image_size(
    image_shape: Sequence[int | None],
    data_format: str,
    patch_size: Sequence[int] = (1, 1),
    filled: bool = True,
) -> tuple[int, int]:
    """Height and width in `image_shape`, of a model that has positions for these.

    Args:
        filled: whether patches must fill the image; otherwise what they do not is left out.

    Raises:
        ValueError: one of them is `None`, smaller than a patch, or not filled by patches.
    """
    image_channels(image_shape, data_format)
    sizes = image_shape[:2] if data_format == "channels_last" else image_shape[1:]
    for name, size, patch in zip(("height", "width"), sizes, patch_size):
        if size is None or size < patch or (filled and size % patch):
            wanted = "that is a multiple of" if filled else "of at least"
            raise ValueError(
                f"image_shape={tuple(image_shape)} needs a {name} {wanted} patch_size={patch}, not "
                f"{size}."
            )
    return sizes[0], sizes[1]  # type: ignore[return-value]


def embed_patches(
    images: torch.Tensor,
    conv: Conv2D,
    data_format: str,
    size: Sequence[int | None] = (None, None),
) -> torch.Tensor:
    """Images cut into patches, each projected: `[batch, patches, filters]`, row by row.

    Args:
        conv: its strides are its kernel's size.
        size: height and width that images must have; what patches do not fill of them is left out.

    Raises:
        ValueError: images of other sizes or channels, or, where any size will do, one that patches
            do not fill.
    """
    filled = conv.kernel_size if None in size else 1
    check_images(images, data_format, conv.in_channels, size, filled)
    return conv(channels_first(images, data_format)).flatten(2).mT


def resample_positions(
    table: torch.Tensor,
    grid: Sequence[int],
    new_grid: Sequence[int],
    kept: int = 0,
    antialias: bool = False,
) -> torch.Tensor:
    """A table of learned positions for a grid of another height and width.

    It is interpolated by cubic curves, in float32.

    Args:
        table: `[kept + height · width, dim]`.
        kept: how many positions at its beginning, of class tokens say, are no places of the grid.
    """
    if tuple(grid) == tuple(new_grid):
        return table
    tokens, places = table[:kept], table[kept:]
    image = places.float().unflatten(0, tuple(grid)).permute(2, 0, 1)[None]
    image = F.interpolate(
        image, tuple(new_grid), mode="bicubic", align_corners=False, antialias=antialias
    )
    return torch.cat((tokens, image[0].flatten(1).mT.to(table.dtype)))


class PositionGrid(Layer):
    """What holds learned positions of an image's patches.

    Made for images of one size, its tables can be resampled for another one.

    Attributes:
        grid: patches in height and width.
    """

    antialias = False

    def __init__(self, image_size: Sequence[int], patch_size: Sequence[int]) -> None:
        super().__init__()
        self.image_size = (image_size[0], image_size[1])
        self.grid = (image_size[0] // patch_size[0], image_size[1] // patch_size[1])

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def tables(self) -> dict[str, int]:
        """Name of each table → how many positions at its beginning are no patches."""
        raise NotImplementedError

    def resample(self, name: str, old: PositionGrid) -> torch.Tensor:
        """A table, `[..., positions, dim]`, from that of another grid."""
        owner, _, leaf = name.rpartition(".")
        table = getattr(old.get_submodule(owner), leaf)
        rows = table.flatten(0, -2)
        rows = resample_positions(rows, old.grid, self.grid, self.tables()[name], self.antialias)
        return rows.view(*table.shape[:-2], -1, table.shape[-1])


class EmbeddedPositionGrid(PositionGrid):
    """As `PositionGrid`, with a layer that embeds the positions.

    Attributes:
        kept: how many positions at the beginning are no patches.
    """

    kept = 0
    position_embedding: Embedding

    def numbers(self, device: torch.device) -> torch.Tensor:
        """The rows of the positions in their table."""
        return torch.arange(self.kept + self.num_patches, device=device)

    def add_positions(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, positions, dim]`, the same."""
        return x + self.position_embedding(self.numbers(x.device))

    def tables(self) -> dict[str, int]:
        return {"position_embedding.weight": self.kept}


class NumberedPositionGrid(EmbeddedPositionGrid):
    """As `EmbeddedPositionGrid`, of a table whose rows `position_ids` picks, as files have it."""

    position_ids: torch.Tensor

    def __init__(self, image_size: Sequence[int], patch_size: Sequence[int]) -> None:
        super().__init__(image_size, patch_size)
        count = torch.arange(self.kept + self.num_patches, dtype=torch.int32)
        self.register_buffer("position_ids", count[None])

    def numbers(self, device: torch.device) -> torch.Tensor:
        return self.position_ids[0]

    def loaded(self) -> None:
        check_rows(self.position_ids, self.position_embedding)

    def tables(self) -> dict[str, int]:
        return {**super().tables(), "position_ids": 0}

    def resample(self, name: str, old: PositionGrid) -> torch.Tensor:
        assert isinstance(old, NumberedPositionGrid)
        if name == "position_ids":
            return super().numbers(old.position_ids.device).to(old.position_ids.dtype)[None]
        table = old.position_embedding.weight[old.position_ids[0]]
        return resample_positions(table, old.grid, self.grid, self.kept)


def check_rows(position_ids: torch.Tensor, table: Embedding) -> None:
    """Refuse numbers of rows that a table does not have.

    Raises:
        ValueError: it names the least and the largest.
    """
    least, largest = position_ids.aminmax()
    if not position_ids.is_meta and (least < 0 or largest >= table.num_embeddings):
        raise ValueError(
            f"position_ids are from {least} to {largest}, but the position table has "
            f"{table.num_embeddings} rows."
        )


class LayerScale(Layer):
    """A factor for each channel, the last axis (arXiv:2103.17239)."""

    compute_dtype: torch.dtype | None = None

    def __init__(self, dim: int, init_value: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), float(init_value)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or self.weight.dtype
        return x.to(dtype) * self.weight.to(dtype)


class DropPath(Layer):
    """Stochastic depth (arXiv:1603.09382): in training mode drops whole samples of a batch."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x / (1 - self.rate) * kept

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def partition_windows(x: torch.Tensor, size: int) -> torch.Tensor:
    """`[batch, height, width, dim]` → `[batch · windows, size, size, dim]`, row by row.

    Sides that `size` does not divide are filled up with zeros, at the end.
    """
    height, width = x.shape[1:3]
    down, right = -(-height // size), -(-width // size)
    if torch.compiler.is_compiling() or (down * size, right * size) != (height, width):
        x = F.pad(x, (0, 0, 0, right * size - width, 0, down * size - height))
    x = x.unflatten(2, (right, size)).unflatten(1, (down, size))
    return x.transpose(2, 3).flatten(0, 2)


def join_windows(windows: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Undo `partition_windows` of maps of this height and width."""
    size = windows.shape[1]
    down, right = -(-height // size), -(-width // size)
    x = windows.unflatten(0, (-1, down, right)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)[:, :height, :width]


def window_offsets(size: int, device: torch.device | None = None) -> torch.Tensor:
    """Which row of a table of `(2 · size - 1)²` is for each query and key of a window (Swin).

    Positions are counted row by row, `[size², size²]`.
    """
    side = torch.arange(size, device=device)
    rows, columns = (x.flatten() for x in torch.meshgrid(side, side, indexing="ij"))
    down = rows[:, None] - rows + size - 1
    right = columns[:, None] - columns + size - 1
    return down * (2 * size - 1) + right


class RelativePositions(PositionGrid):
    """Scores of relative positions in a plane, those of rows and of columns added (ViTDet, SAM;
    arXiv:2112.01526). A grid of another size gets interpolated vectors.

    Args:
        size: height and width of the grid that the vectors are for.
    """

    compute_dtype: torch.dtype | None = None

    def __init__(self, size: Sequence[int], dim: int) -> None:
        super().__init__(size, (1, 1))
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size[0] - 1, dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size[1] - 1, dim))

    def forward(self, query: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """`[batch, heads, height · width, dim]` → what is added to its scores with all keys."""
        query = query.unflatten(2, (height, width))
        down = self.vectors(self.rel_pos_h, height).to(query.dtype)
        right = self.vectors(self.rel_pos_w, width).to(query.dtype)
        rows = torch.einsum("bnhwc,hkc->bnhwk", query, down)
        columns = torch.einsum("bnhwc,wkc->bnhwk", query, right)
        return (rows[..., :, None] + columns[..., None, :]).flatten(4).flatten(2, 3)

    @staticmethod
    def vectors(table: torch.Tensor, size: int) -> torch.Tensor:
        """Of each query and key along one axis, `[size, size, dim]`."""
        table = RelativePositions.resampled(table, size)
        places = torch.arange(size, device=table.device)
        return table[places[:, None] - places + size - 1]

    @staticmethod
    def resampled(table: torch.Tensor, size: int) -> torch.Tensor:
        """The table for an axis of this size, by straight lines in float32."""
        if len(table) == 2 * size - 1:
            return table
        line = table.float().T[None, :, :, None]
        return resize(line, (2 * size - 1, 1))[0, :, :, 0].T.to(table.dtype)

    def tables(self) -> dict[str, int]:
        return {"rel_pos_h": 0, "rel_pos_w": 0}

    def resample(self, name: str, old: PositionGrid) -> torch.Tensor:
        return self.resampled(getattr(old, name), self.grid[0 if name == "rel_pos_h" else 1])
