"""Attention in blocks of frames, of Gemma 3n's audio tower."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..layers.core import Dense
from ..layers.layer import Layer

LONGEST_WAVE = 1e4


class Gemma3nAudioRelativePositionEmbedding(Layer):
    """Scores of queries for distances (arXiv:1901.02860): waves of all lengths, projected."""

    def __init__(self, dim: int, num_heads: int, past: int, future: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.past = past
        self.future = future
        self.waves = dim // 2
        self.pos_proj = Dense(dim, dim, use_bias=False)

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """`[B, heads, blocks, size, dim]` → `[B, heads, blocks, size, size + past + future]`."""
        device, size = queries.device, queries.shape[3]
        distances = torch.arange(self.past, -self.future - 1, -1, device=device)
        waves = torch.arange(self.waves, device=device, dtype=torch.float32)
        step = math.log(LONGEST_WAVE) / max(self.waves - 1, 1)
        angles = distances[:, None] * torch.exp(waves * -step)
        signal = torch.cat((angles.sin(), angles.cos()), dim=-1).to(queries.dtype)
        keys = self.pos_proj(signal).unflatten(-1, (self.num_heads, -1))
        scores = torch.einsum("bnuwh,fnh->bnuwf", queries, keys)
        # The i-th query of a block begins with the i-th key of its context: each row is shifted.
        context = size + self.past + self.future
        scores = F.pad(scores, (0, size)).flatten(3)
        return scores[..., : size * context].unflatten(3, (size, context))


class Gemma3nAudioAttention(Layer):
    """Attention in blocks: each sees itself, `past` frames before it and `future` behind it."""

    def __init__(
        self, dim: int, num_heads: int, size: int, future: int, past: int, soft_cap: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.size = size
        self.past = past
        self.future = future
        self.soft_cap = soft_cap
        # Such that a factor of softplus(0) is one.
        self.scale = (dim // num_heads) ** -0.5 / math.log(2)
        self.per_dim_scale = nn.Parameter(torch.zeros(dim // num_heads))
        self.relative_position_embedding = Gemma3nAudioRelativePositionEmbedding(
            dim, num_heads, past, future
        )
        self.q_proj = Dense(dim, dim, use_bias=False)
        self.k_proj = Dense(dim, dim, use_bias=False)
        self.v_proj = Dense(dim, dim, use_bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        q, k, v = (
            project(x).unflatten(-1, (self.num_heads, -1))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q = q * (F.softplus(self.per_dim_scale.float()) * self.scale).to(q.dtype)
        blocks = (length + self.size - 1) // self.size
        q = F.pad(q, (0, 0, 0, 0, 0, blocks * self.size - length))
        q = q.unflatten(1, (blocks, self.size)).permute(0, 3, 1, 2, 4)
        k, v = (self.contexts(one).permute(0, 2, 1, 4, 3) for one in (k, v))
        scores = q @ k.mT + self.relative_position_embedding(q)
        scores = torch.tanh(scores / self.soft_cap) * self.soft_cap
        weights = scores.float().masked_fill(~self.visible(mask), torch.finfo(torch.float32).min)
        x = weights.softmax(-1).to(v.dtype) @ v
        return x.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :length].flatten(2)

    def contexts(self, x: torch.Tensor) -> torch.Tensor:
        """What each block sees, `[B, T, …]` → `[B, blocks, …, size + past + future]`."""
        around = (self.past, self.future + self.size - 1)
        x = F.pad(x, (*(0, 0) * (x.ndim - 2), *around))
        return x.unfold(1, self.size + self.past + self.future, self.size)

    def visible(self, mask: torch.Tensor) -> torch.Tensor:
        """`[B, 1, blocks, size, size + past + future]`."""
        keys = torch.arange(self.size + self.past + self.future, device=mask.device)
        behind = keys - keys[: self.size, None]
        near = (behind >= 0) & (behind <= self.past + self.future)
        return near & self.contexts(~mask)[:, None, :, None]
