"""What diffusion transformers share (arXiv:2212.09748)."""

from __future__ import annotations

import math

import torch


def timestep_waves(timesteps: torch.Tensor, dim: int, max_period: float = 1e4) -> torch.Tensor:
    """Cosines and sines of `timesteps` `[batch]`, `[batch, dim]`, in float32 whatever the dtype."""
    half = dim // 2
    # In this order of operations, since angles of a thousand turn on the last bit of a frequency.
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(max_period) * exponents / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`x · (1 + scale) + shift`."""
    return torch.addcmul(shift, x, 1 + scale)


def check_width(name: str, tensor: torch.Tensor, width: int) -> None:
    """Refuse an input of another width.

    Raises:
        ValueError: it names the input, its width and the model's.
    """
    if tensor.shape[-1] != width:
        raise ValueError(f"{name} must be {width} wide, not {tensor.shape[-1]}.")
