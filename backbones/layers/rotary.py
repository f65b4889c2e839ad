"""Rotary position embedding (Su et al., 2021, arXiv:2104.09864), in the half-split form."""

from __future__ import annotations

import torch


def rotary_frequencies(
    dim: int, max_wavelength: float, device: torch.device, scaling_factor: float = 1.0
) -> torch.Tensor:
    """Angle per position for each pair, `[dim / 2]`, float32."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim
    return max_wavelength**-exponents / scaling_factor


def rotary_tables(
    positions: int | torch.Tensor, frequencies: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines; the angles are float32.

    Args:
        positions: how many from 0 on, for tables `[length, dim]`; or the positions
            `[rows, length]`, for tables `[rows, 1, length, dim]`.
    """
    if isinstance(positions, torch.Tensor):
        positions = positions[:, None]
    else:
        positions = torch.arange(positions, device=frequencies.device)
    angles = positions[..., None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn `[batch, heads, length, dim]`; dimension i is paired with i + dim / 2."""
    cos, sin = tables
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
