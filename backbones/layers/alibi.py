"""Attention with linear biases (Press et al., 2021, arXiv:2108.12409)."""

from __future__ import annotations

import torch


def alibi_slopes(num_heads: int) -> list[float]:
    """How fast each head's bias falls with the distance."""
    power = 1
    while 2 * power <= num_heads:
        power *= 2
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    # The heads beyond a power of two take every other slope of the next one.
    return slopes + [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * (num_heads - power), 2)]


def alibi_bias(
    num_heads: int, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """What is added to the scores, `[batch, heads, queries, keys]`, float32; hidden keys: -inf.

    Args:
        queries: positions `[rows, queries]`, counted from anywhere.
        keys: positions `[rows, keys]`.
        mask: boolean `[batch, 1, queries, keys]`.
    """
    slopes = torch.tensor(alibi_slopes(num_heads), device=keys.device)
    distance = keys[:, None, :] - queries[:, :, None]
    bias = slopes[:, None, None] * distance[:, None].float()
    return bias.masked_fill(~mask, -torch.inf)
