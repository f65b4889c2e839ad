"""What formats of quantized weights are described with, and arithmetic that they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..files import FLOATS, Stored

Settings = Mapping[str, Any]
Parts = Mapping[str, Stored]
Values = Mapping[str, torch.Tensor]
# What files call their numbers, in safetensors and in pickles.
INT32 = frozenset(("I32", "int32"))
INT8 = frozenset(("I8", "int8"))
UINT8 = frozenset(("U8", "uint8"))
FLOAT8 = frozenset(("F8_E4M3", "float8_e4m3fn"))
EXPONENTS = frozenset(("F8_E8M0", "float8_e8m0fnu", "U8", "uint8"))
# Suffixes of scales of what layers are given and give, and of the keys and values in a cache.
ACTIVATIONS = tuple(
    f".{owner}_{name}"
    for owner in ("input", "output", "activation", "q", "k", "v")
    for name in ("scale", "zero_point", "global_scale")
)
# That are computed at once: enough for speed, and nothing beside the whole.
ROWS = 256
ANY = FLOATS | INT32 | INT8 | UINT8 | FLOAT8


@dataclass(frozen=True)
class Packing:
    """How several tensors are one weight. Each is called as the weight's stem and a suffix.

    Attributes:
        parts: suffix → kinds of number that it may have; a weight is stored so if it has the last.
        shape: the weight's, from the headers; a ValueError says what does not fit.
        values: the weight in floats, of the tensors and its shape.
        optional: likewise, of tensors that some files lack.
        weight: the weight's own suffix.
    """

    parts: Mapping[str, Collection[str]]
    shape: Callable[[Parts, Settings], tuple[int, ...]]
    values: Callable[[Values, Settings, tuple[int, ...]], torch.Tensor]
    optional: Mapping[str, Collection[str]] = field(default_factory=dict)
    weight: str = ".weight"


@dataclass(frozen=True)
class Format:
    """How a library quantizes.

    Attributes:
        method: `quant_method` in a config.json.
        check: refuses settings, by a ValueError.
        packings: of its weights.
        dropped: suffixes of what belongs to activations, which are not quantized here.
    """

    method: str
    check: Callable[[Settings], None]
    packings: tuple[Packing, ...]
    dropped: tuple[str, ...] = ()


# Settings


def one_of(settings: Settings, name: str, default: Any, *known: Any) -> Any:
    """The setting, which is one of a few.

    Raises:
        ValueError: it is another one.
    """
    value = settings.get(name)
    value = default if value is None else value
    if not any(value == one and type(value) is type(one) for one in known):
        raise ValueError(f"{name} is {value!r}; only {' or '.join(map(repr, known))} can be read")
    return value


def is_size(value: Any) -> bool:
    """Whether it is a number of numbers."""
    return type(value) is int and 0 < value < 2**31


def size_of_groups(settings: Settings, default: int = 128) -> int | None:
    """How many inputs have a scale together; `None` for all.

    Raises:
        ValueError: it is no such number.
    """
    size = settings.get("group_size", default)
    if size in (-1, None):
        return None
    if not is_size(size):
        raise ValueError(f"group_size is {size!r}; it must be positive, or -1")
    return size


# Shapes


def check_shape(part: Stored, *shapes: tuple[int, ...]) -> None:
    """Raises ValueError: the tensor has none of these shapes."""
    if part.shape not in shapes:
        raise ValueError(f"{part.name} is {part.shape}, not {' or '.join(map(str, shapes))}")


def matrix(part: Stored) -> tuple[int, int]:
    """Its shape.

    Raises:
        ValueError: it has other than two axes.
    """
    if len(part.shape) != 2:
        raise ValueError(f"{part.name} is {part.shape}, no matrix")
    return part.shape[0], part.shape[1]


def check_divisible(count: int, by: int, what: str) -> None:
    """Raises ValueError: it is not."""
    if count % by:
        raise ValueError(f"{count} {what} are not divisible by {by}")


def words(count: int, bits: int) -> int:
    """How many of 32 bits hold so many numbers."""
    return math.ceil(count * bits / 32)


# Values


def unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Numbers one after the other in int32 `[..., words]`, the lowest bits first, as uint8
    `[..., count]`.
    """
    found = packed.contiguous().view(torch.uint8)  # [..., bytes]
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
        return ((found[..., None] >> shifts) & ((1 << bits) - 1)).flatten(-2)[..., :count]
    starts = torch.arange(count) * bits
    low = starts // 8
    high = (low + 1).clamp(max=found.shape[-1] - 1)
    pairs = (found[..., high].int() << 8) | found[..., low].int()
    return ((pairs >> (starts % 8).int()) & ((1 << bits) - 1)).byte()


def index_of_groups(index: torch.Tensor | None, name: str, groups: int) -> torch.Tensor | None:
    """The group of each input, where these are not in order.

    Raises:
        ValueError: there is no such group.
    """
    if index is None:
        return None
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < groups:
        raise ValueError(f"{name} has groups outside of 0 to {groups - 1}")
    return index.long()


def scaled(
    weight: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | int | None = None,
    index: torch.Tensor | None = None,
    blocks: tuple[int, int] = (1, 1),
) -> torch.Tensor:
    """(weight - zeros) · scales in float32.

    Args:
        weight: `[..., rows, columns]`.
        scales, zeros: one for each block, or in each row one for each group of `index`.
        index: the group of each column.
        blocks: how many rows and columns have one.
    """
    count = weight.shape[-2]
    row = torch.arange(count) // blocks[0]
    column = torch.arange(weight.shape[-1]) // blocks[1] if index is None else index
    result = torch.empty(weight.shape)

    def spread(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        for axis, which in ((-2, rows), (-1, column)):
            if table.shape[axis] > 1:
                table = table.index_select(axis, which)
        return table.float()

    for begin in range(0, count, ROWS):
        rows = row[begin : begin + ROWS]
        part = result.narrow(-2, begin, len(rows))
        part.copy_(weight.narrow(-2, begin, len(rows)))
        if zeros is not None:
            part -= spread(zeros, rows) if isinstance(zeros, torch.Tensor) else zeros
        part *= spread(scales, rows)
    return result
