"""Floats of eight bits, with a scale for the whole, for each row or for each block."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..files import FLOATS, Stored
from .packing import (
    ACTIVATIONS,
    EXPONENTS,
    FLOAT8,
    Format,
    Packing,
    Parts,
    Settings,
    Values,
    check_divisible,
    check_shape,
    is_size,
    one_of,
    scaled,
)

MULTIPLIERS = FLOATS | EXPONENTS


def _check(settings: Settings) -> None:
    one_of(settings, "fmt", "e4m3", "e4m3")
    _blocks(settings)


def _check_rows(settings: Settings) -> None:
    """FBGEMM has no settings of its weights."""


def _blocks(settings: Settings) -> tuple[int, int] | None:
    """Rows and columns of which each has a scale."""
    sizes = settings.get("weight_block_size")
    return None if sizes is None else pair(sizes, "weight_block_size")


def pair(sizes: Any, name: str) -> tuple[int, int]:
    """The sizes of blocks.

    Raises:
        ValueError: these are none.
    """
    if not (isinstance(sizes, (list, tuple)) and len(sizes) == 2 and all(map(is_size, sizes))):
        raise ValueError(f"{name} is {sizes!r}; it must be two positive numbers")
    return sizes[0], sizes[1]


def grid(weight: Stored, scale: Stored, blocks: tuple[int, int] | None) -> tuple[int, ...]:
    """The shape of a weight with a scale for each block, or for a few rows and columns.

    Raises:
        ValueError: these are not its scales.
    """
    if len(weight.shape) < 2:
        raise ValueError(f"{weight.name} is {weight.shape}, no matrix")
    *outer, rows, columns = weight.shape
    if blocks is not None:
        counts = (math.ceil(size / each) for size, each in zip((rows, columns), blocks))
        check_shape(scale, (*outer, *counts))
    elif len(scale.shape) < 2:
        check_shape(scale, (), (1,))
    else:  # of the whole, of each row, or of several matrices in one
        check_shape(scale, (*outer, scale.shape[-2], 1))
        check_divisible(rows, max(scale.shape[-2], 1), "rows")
    return weight.shape


def on_grid(
    weight: torch.Tensor, scales: torch.Tensor, blocks: tuple[int, int] | None
) -> torch.Tensor:
    """The values of what `grid` has the shape of; scales in bytes are exponents of two."""
    if scales.dtype == torch.uint8:
        scales = torch.exp2(scales.float() - 127)
    if scales.dim() < 2:
        scales = scales.reshape(1, 1)
    if blocks is None:
        rows, columns = weight.shape[-2:]
        blocks = rows // scales.shape[-2], columns // scales.shape[-1]
    return scaled(weight, scales, blocks=blocks)


def _packing(weight: str, scale: str) -> Packing:
    def shape(parts: Parts, settings: Settings) -> tuple[int, ...]:
        return grid(parts[weight], parts[scale], _blocks(settings))

    def values(found: Values, settings: Settings, shape: tuple[int, ...]) -> torch.Tensor:
        return on_grid(found[weight], found[scale], _blocks(settings))

    return Packing({weight: FLOAT8, scale: MULTIPLIERS}, shape, values, weight=weight)


OF_LAYERS = _packing(".weight", ".weight_scale_inv")
OF_EXPERTS = _packing("", "_scale_inv")  # of all in one
AS_OTHERS = _packing(".weight", ".weight_scale")  # AutoFP8, FBGEMM
FORMATS = (
    Format(
        "fp8",
        _check,
        (OF_LAYERS, OF_EXPERTS, AS_OTHERS),
        (*ACTIVATIONS, "_activation_scale"),
    ),
    Format("fbgemm_fp8", _check_rows, (AS_OTHERS,)),
)
