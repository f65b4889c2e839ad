"""D-FINE's attention: of queries to each other, and of queries to a few points of an image."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch.nn import functional as F

from ..layers.attention import merge_heads, split_heads
from ..layers.boxes import widened
from ..layers.core import EinsumDense
from ..layers.initializers import random_normal, zeros
from ..layers.layer import Layer

NORMAL = random_normal(0.01)
# A map `[n, dim, height, width]` and places `[n, queries, points, 2]`, x and y from 0 to 1 → what
# is there, `[n, dim, queries, points]`.
Sampler: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class DFineMultiheadAttention(Layer):
    """Self-attention in which queries and keys, and not the values, have positions."""

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        heads = (num_heads, hidden_dim // num_heads)
        self.q_proj = EinsumDense("abc,cde->abde", hidden_dim, heads, True, NORMAL)
        self.k_proj = EinsumDense("abc,cde->abde", hidden_dim, heads, True, NORMAL)
        self.v_proj = EinsumDense("abc,cde->abde", hidden_dim, heads, True, NORMAL)
        self.out_proj = EinsumDense("abc,cd->abd", hidden_dim, hidden_dim, True, NORMAL)

    def forward(
        self, x: torch.Tensor, positions: torch.Tensor, bias: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`[batch, length, dim]` → the same, and probabilities `[batch, heads, length, length]`.

        Args:
            bias: added to the scores.
        """
        placed = x + positions
        query = split_heads(self.q_proj(placed), self.num_heads)
        key = split_heads(self.k_proj(placed), self.num_heads)
        value = split_heads(self.v_proj(x), self.num_heads)
        scores = query * query.shape[-1] ** -0.5 @ key.mT
        if bias is not None:
            scores = scores + bias
        weights = widened(scores).softmax(-1).to(value.dtype)
        return self.out_proj(merge_heads(weights @ value)), weights


def bilinear(image: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Between four pixels; around the map there are zeros."""
    return F.grid_sample(widened(image), 2 * places - 1, align_corners=False)


def nearest(image: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Of one pixel; what is outside the map is moved to its border."""
    height, width = image.shape[2:]
    x = (places[..., 0] * width + 0.5).floor().clamp(0, width - 1)
    y = (places[..., 1] * height + 0.5).floor().clamp(0, height - 1)
    index = (y * width + x).long().flatten(1)
    found = image.flatten(2).gather(2, index[:, None].expand(-1, image.shape[1], -1))
    return widened(found).unflatten(2, (places.shape[1], places.shape[2]))


SAMPLERS: dict[str, Sampler] = {"default": bilinear, "discrete": nearest}


def _rays(
    tensor: torch.Tensor, fan_in: int, fan_out: int, *, num_heads: int, points: Sequence[int]
) -> None:
    """Each head looks into a direction of its own, each of its points a step further."""
    angles = torch.arange(num_heads) * (2 * math.pi / num_heads)
    rays = torch.stack((angles.cos(), angles.sin()), dim=-1)
    rays = rays / rays.abs().amax(-1, keepdim=True)
    steps = torch.cat([torch.arange(1, many + 1) for many in points])
    with torch.no_grad():
        tensor.copy_((rays[:, None] * steps[:, None]).flatten())


class DFineMultiscaleDeformableAttention(Layer):
    """Each query looks at a few points around its box, in maps of several resolutions
    (arXiv:2010.04159).

    Args:
        points: how many of each map.
        grids: height and width of each map.
        sample: what gives a map's values at points.
    """

    num_points_scale: torch.Tensor

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        points: Sequence[int],
        grids: Sequence[tuple[int, int]],
        sample: Sampler,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.points = list(points)
        self.grids = grids
        self.sample = sample
        many = sum(points)
        rays = functools.partial(_rays, num_heads=num_heads, points=points)
        self.sampling_offsets = EinsumDense(
            "abc,cdef->abdef", hidden_dim, (num_heads, many, 2), True, zeros, rays
        )
        self.attention_weights = EinsumDense(
            "abc,cde->abde", hidden_dim, (num_heads, many), True, zeros
        )
        scale = torch.cat([torch.full((count,), 1 / count) for count in points])
        self.register_buffer("num_points_scale", scale)

    def forward(
        self, x: torch.Tensor, memory: torch.Tensor, boxes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries `[batch, queries, dim]`, all maps' pixels `[batch, pixels, dim]` and boxes
        `[batch, queries, 4]` (centre, width and height) → what the queries see
        `[batch, queries, dim]`, and the weights of its points `[batch, queries, heads, points]`.
        """
        weights = self.attention_weights(x).unflatten(-1, (self.num_heads, -1))
        weights = widened(weights).softmax(-1)
        offsets = self.sampling_offsets(x).unflatten(-1, (self.num_heads, -1, 2))
        scale = 0.5 * widened(self.num_points_scale)[:, None]
        centres, sizes = boxes[:, :, None, None].chunk(2, dim=-1)
        places = centres + widened(offsets) * scale * sizes
        places = places.transpose(1, 2).flatten(0, 1)  # [batch · heads, queries, points, 2]
        value = split_heads(memory, self.num_heads).flatten(0, 1).mT
        sampled, start = [], 0
        for (height, width), at in zip(self.grids, places.split(self.points, dim=2)):
            image = value[..., start : start + height * width].unflatten(2, (height, width))
            sampled.append(self.sample(image, at))
            start += height * width
        each = weights.transpose(1, 2).flatten(0, 1)[:, None]
        seen = (torch.cat(sampled, dim=-1) * each).sum(-1)  # [batch · heads, dim of one, queries]
        seen = seen.unflatten(0, (-1, self.num_heads)).flatten(1, 2).mT
        return seen.to(memory.dtype), weights.to(x.dtype)
