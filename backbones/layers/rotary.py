"""Rotary position embedding (Su et al., 2021, arXiv:2104.09864).

Pairs of dimensions are turned by angles, position times frequency, always float32. In `halves`
dimension i is paired with i + dim / 2 (`rotary_tables`, `rotate`), in `pairs` each even dimension
with the next one (`pair_tables`, `rotate_pairs`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch

# Cosines and sines.
Tables: TypeAlias = tuple[torch.Tensor, torch.Tensor]


def rotary_frequencies(
    dim: int,
    max_wavelength: float,
    device: torch.device | None = None,
    scaling_factor: float = 1.0,
) -> torch.Tensor:
    """Angle per position for each pair, `[dim / 2]`, float32."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
    return max_wavelength**-exponents / scaling_factor


def rotary_part(head_dim: int, factor: float) -> int:
    """How many of a head's dimensions are turned where only a part of them is.

    Raises:
        ValueError: an odd number.
    """
    dim = int(head_dim * factor)
    if dim % 2:
        raise ValueError(
            f"Positions turn an even number of dimensions, not {dim}, {factor} of a head's "
            f"{head_dim}."
        )
    return dim


def llama3_frequencies(
    frequencies: torch.Tensor,
    adjustment_factor: float,
    low_factor: float,
    high_factor: float,
    pretraining_length: float,
) -> torch.Tensor:
    """Llama 3.1's scaling (arXiv:2407.21783).

    A wavelength that goes fewer than `low_factor` times into the length of pretraining is
    multiplied by `adjustment_factor`, one that goes more than `high_factor` times is kept, and
    between them the frequencies are interpolated.
    """
    turns = pretraining_length * frequencies / (2 * math.pi)
    kept = ((turns - low_factor) / (high_factor - low_factor)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / adjustment_factor)


def yarn_frequencies(
    dim: int,
    max_wavelength: float,
    device: torch.device,
    factor: float,
    length: int = 4096,
    fast: float = 32.0,
    slow: float = 1.0,
) -> torch.Tensor:
    """YaRN's (arXiv:2309.00071), `[dim / 2]`, for `factor` times the `length` of pretraining.

    A wavelength that goes more than `fast` times into that length is kept, one that goes fewer
    than `slow` times is multiplied by `factor`, and between them frequencies are interpolated.
    """

    def pair(turns: float) -> float:
        """Which pair turns so often, a fractional index."""
        return dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(max_wavelength))

    low, high = max(pair(fast), 0.0), min(pair(slow), dim - 1.0)
    pairs = torch.arange(dim // 2, dtype=torch.float32, device=device)
    stretched = ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)
    frequencies = rotary_frequencies(dim, max_wavelength, device)
    return frequencies * (stretched / factor + (1 - stretched))


def yarn_magnitude(factor: float) -> float:
    """By which YaRN scales cosines and sines."""
    return 0.1 * math.log(factor) + 1


def longrope_frequencies(
    frequencies: torch.Tensor,
    positions: torch.Tensor,
    short: Sequence[float],
    long: Sequence[float],
    pretraining_length: int,
) -> torch.Tensor:
    """LongRoPE's (arXiv:2402.13753), `[rows, 1, 1, pairs]` for `positions` `[rows, length]`.

    Frequencies are divided by `short` or, in rows with positions beyond `pretraining_length`, by
    `long`, a number for each pair.
    """
    factors = torch.tensor((short, long), dtype=torch.float32, device=positions.device)
    # No branch on the length, so that one compilation serves all lengths. What a cache holds is
    # not turned again when a sequence outgrows the short factors.
    beyond = positions.amax(1)[:, None, None, None] >= pretraining_length
    return frequencies / torch.where(beyond, factors[1], factors[0])


def longrope_magnitude(max_length: int, pretraining_length: int) -> float:
    """By which LongRoPE scales the cosines and sines of a model made for `max_length`."""
    growth = max(1.0, max_length / pretraining_length)
    return math.sqrt(1 + math.log(growth) / math.log(pretraining_length))


def rotary_tables(
    positions: int | torch.Tensor,
    frequencies: torch.Tensor,
    dtype: torch.dtype,
    magnitude: float = 1.0,
) -> Tables:
    """Of positions in a row, for `rotate`.

    Args:
        positions: how many from 0 on, for tables `[length, dim]`; or the positions
            `[rows, length]`, for tables `[rows, 1, length, dim]`.
        magnitude: what cosines and sines are multiplied by.
    """
    if isinstance(positions, torch.Tensor):
        positions = positions[:, None]
    else:
        positions = torch.arange(positions, device=frequencies.device)
    return _halves(positions[..., None].float() * frequencies, dtype, magnitude)


def plane_tables(positions: torch.Tensor, frequencies: torch.Tensor, dtype: torch.dtype) -> Tables:
    """Of positions in a plane, for `rotate`: each axis has a part of the pairs.

    Args:
        positions: `[..., axes]`.
        frequencies: `[dim / 2 / axes]`.

    Returns:
        Tables `[..., dim]`.
    """
    angles = positions[..., None].float() * frequencies
    return _halves(angles.flatten(-2), dtype)


def sectioned_tables(
    positions: torch.Tensor,
    frequencies: torch.Tensor,
    sections: Sequence[int],
    dtype: torch.dtype,
) -> Tables:
    """Of positions in time, rows and columns, for `rotate` (M-RoPE, arXiv:2409.12191, interleaved):
    of three pairs in a row each has one, up to so many of rows and columns; the rest are of time.

    Args:
        positions: `[rows, 3, length]`.
        sections: how many pairs each axis has.

    Returns:
        Tables `[rows, 1, length, dim]`.
    """
    axes = torch.zeros(len(frequencies), dtype=torch.long, device=positions.device)
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = axis
    angles = positions.mT[..., axes].float() * frequencies
    return _halves(angles[:, None], dtype)


def pair_tables(
    positions: int | torch.Tensor, frequencies: torch.Tensor, dtype: torch.dtype
) -> Tables:
    """As `rotary_tables`, for `rotate_pairs`: `[length, pairs]` or `[rows, 1, length, pairs]`."""
    if isinstance(positions, torch.Tensor):
        positions = positions[:, None]
    else:
        positions = torch.arange(positions, device=frequencies.device)
    angles = positions[..., None].float() * frequencies.float()
    return angles.cos().to(dtype), angles.sin().to(dtype)


def axis_pair_tables(positions: torch.Tensor, dims: Sequence[int], max_wavelength: float) -> Tables:
    """Of positions in several axes, each of which has some of the dimensions, for `rotate_pairs`.

    Args:
        positions: `[rows, length, axes]`.
        dims: how many dimensions each axis turns, even numbers.

    Returns:
        Tables `[rows, 1, length, pairs]`, float32.
    """
    angles = torch.cat(
        [
            position[..., None].float() * rotary_frequencies(dim, max_wavelength, position.device)
            for position, dim in zip(positions.unbind(-1), dims)
        ],
        dim=-1,
    )[:, None]
    return angles.cos(), angles.sin()


def _halves(angles: torch.Tensor, dtype: torch.dtype, magnitude: float = 1.0) -> Tables:
    angles = torch.cat((angles, angles), dim=-1)
    return (angles.cos() * magnitude).to(dtype), (angles.sin() * magnitude).to(dtype)


def rotate(x: torch.Tensor, tables: Tables) -> torch.Tensor:
    """Turn `[..., length, dim]`; dimension i is paired with i + dim / 2."""
    cos, sin = tables
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotate_part(x: torch.Tensor, tables: Tables) -> torch.Tensor:
    """As `rotate`, of as many of the first dimensions as the tables have."""
    dim = tables[0].shape[-1]
    return torch.cat((rotate(x[..., :dim], tables), x[..., dim:]), dim=-1)


def rotate_pairs(x: torch.Tensor, tables: Tables) -> torch.Tensor:
    """Turn the first dimensions of `[..., length, dim]`, twice as many as the tables have; each
    even one is paired with the next.
    """
    cos, sin = tables
    turned, rest = x.tensor_split([2 * cos.shape[-1]], dim=-1)
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((turned, rest), dim=-1)


def rotate_pairs_wide(x: torch.Tensor, tables: Tables) -> torch.Tensor:
    """As `rotate_pairs`, with a cosine and a sine for each dimension, not for each pair."""
    cos, sin = tables
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack((-odd, even), dim=-1).flatten(-2) * sin
