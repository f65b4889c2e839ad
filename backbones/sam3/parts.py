"""What SAM 3's encoders and decoders share."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch.nn import functional as F

from .._inputs import Input
from ..layers.activations import Activation, ActivationLike
from ..layers.attention import attend, merge_heads, split_heads
from ..layers.core import Dense, Dropout, LayerNormalization
from ..layers.layer import Layer

# A map, and the same row by row; prompts, of text and of boxes; and the boxes.
Map = Annotated[torch.Tensor, Input("values", ("batch", "dim", "rows", "columns"))]
Pixels = Annotated[torch.Tensor, Input("values", ("batch", "pixels", "dim"))]
Positions = Annotated[torch.Tensor, Input("values", ("pixels", "dim"))]
Queries = Annotated[torch.Tensor, Input("values", ("batch", "queries", "dim"))]
Prompts = Annotated[torch.Tensor, Input("values", ("batch", "prompts", "dim"))]
PromptMask = Annotated[torch.Tensor, Input("mask", ("batch", "prompts"))]
Boxes = Annotated[torch.Tensor, Input("values", ("batch", "boxes", "numbers"))]
BoxLabels = Annotated[torch.Tensor, Input("values", ("batch", "boxes"))]


class SAM3Attention(Layer):
    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Dense(hidden_dim, hidden_dim)
        self.k_proj = Dense(hidden_dim, hidden_dim)
        self.v_proj = Dense(hidden_dim, hidden_dim)
        self.o_proj = Dense(hidden_dim, hidden_dim)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`[batch, length, dim]` → the same, of the query's length; `mask` as in `attend`."""
        q = split_heads(self.q_proj(query), self.num_heads)
        k = split_heads(self.k_proj(key), self.num_heads)
        v = split_heads(self.v_proj(value), self.num_heads)
        return self.o_proj(merge_heads(attend(q, k, v, mask)))


class SAM3MLP(Layer):
    def __init__(
        self, hidden_dim: int, intermediate_dim: int, activation: ActivationLike, dropout: float
    ) -> None:
        super().__init__()
        self.fc1 = Dense(hidden_dim, intermediate_dim)
        self.dropout = Dropout(dropout)
        self.act = Activation(activation)
        self.fc2 = Dense(intermediate_dim, hidden_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.dropout(self.fc1(x))))


class SAM3DecoderMLP(Layer):
    """Linear maps with ReLUs between them."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        for i in range(1, len(widths)):
            self.add_module(f"layer{i}", Dense(widths[i - 1], widths[i]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *others = self.children()
        x = first(x)
        for layer in others:
            x = layer(F.relu(x))
        return x


def sines(x: torch.Tensor, features: int) -> torch.Tensor:
    """Numbers from 0 to 1 as sines and cosines in turns, `[..., features]`, in float32."""
    exponents = torch.arange(0, features, 2, device=x.device) / features
    angles = x.float()[..., None] * (2 * math.pi) * 10000.0**-exponents
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def plane_sines(rows: int, columns: int, dim: int, device: torch.device) -> torch.Tensor:
    """Of the pixels of a map, row by row, `[rows · columns, dim]`."""
    y, x = (
        sines(torch.arange(1, many + 1, device=device) / (many + 1e-6), dim // 2)
        for many in (rows, columns)
    )
    both = (y[:, None].expand(-1, columns, -1), x.expand(rows, -1, -1))
    return torch.cat(both, dim=-1).flatten(0, 1)


class SAM3CrossLayer(Layer):
    """What holds self-attention, attention to others, and an MLP, each behind a norm."""

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        activation: ActivationLike,
        dropout: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.layer_norm1 = LayerNormalization(hidden_dim, epsilon)
        self.self_attn = SAM3Attention(hidden_dim, num_heads)
        self.dropout = Dropout(dropout)
        self.cross_attn = SAM3Attention(hidden_dim, num_heads)
        self.layer_norm2 = LayerNormalization(hidden_dim, epsilon)
        self.mlp = SAM3MLP(hidden_dim, intermediate_dim, activation, dropout)
        self.layer_norm3 = LayerNormalization(hidden_dim, epsilon)
