"""The blocks of T5 (Raffel et al., 2019, arXiv:1910.10683) and of models around it."""

from __future__ import annotations

import math

import torch
from torch import nn

from .activations import Activation, ActivationLike
from .attention import attend_biased, merge_heads, split_heads
from .cache import Crossing, Pair, Past
from .core import Dense, Dropout, RMSNormalization
from .division import Division
from .initializers import random_normal
from .layer import Layer
from .layout import Layout

BUCKETS = 32
MAX_DISTANCE = 128


class T5LayerNorm(RMSNormalization):
    pass


class T5MultiHeadAttention(Layer):
    """Attention without a scale; the positions come in as a bias on the scores."""

    division = Division(
        ("query_projector", "key_projector", "value_projector"),
        ("output_projector",),
        weights={"relative_attention_bias": 1},
        heads=("num_heads",),
    )

    def __init__(
        self,
        hidden_dim: int,
        key_value_dim: int,
        num_heads: int,
        dropout: float,
        is_decoder: bool,
        use_relative_attention_bias: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.is_decoder = is_decoder
        inner_dim = num_heads * key_value_dim
        init = random_normal(inner_dim**-0.5)
        init_query = random_normal((inner_dim * key_value_dim) ** -0.5)
        self.relative_attention_bias: nn.Parameter | None = None
        if use_relative_attention_bias:
            self.relative_attention_bias = nn.Parameter(torch.empty(BUCKETS, num_heads))
            init(self.relative_attention_bias, BUCKETS, num_heads)
        self.query_projector = Dense(hidden_dim, inner_dim, False, init_query)
        self.key_projector = Dense(hidden_dim, inner_dim, False, init)
        self.value_projector = Dense(hidden_dim, inner_dim, False, init)
        self.output_projector = Dense(inner_dim, hidden_dim, False, init)

    def keys_values(self, x: torch.Tensor) -> Pair:
        key = split_heads(self.key_projector(x), self.num_heads)
        return key, split_heads(self.value_projector(x), self.num_heads)

    def forward(
        self,
        x: torch.Tensor,
        key_value: torch.Tensor,
        bias: torch.Tensor,
        distance: torch.Tensor | None = None,
        past: Past | Crossing | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The result, and the bias for the next layers: the first one adds that of positions.

        `distance` is from queries to keys, `[1 or batch, length, keys]`.
        """
        if self.relative_attention_bias is not None and distance is not None:
            buckets = relative_buckets(distance, not self.is_decoder)
            # `[1 or batch, heads, length, keys]`, looked up by the buckets of the distances.
            table = self.relative_attention_bias.float()
            bias = bias + table[buckets].permute(0, 3, 1, 2)
        q = split_heads(self.query_projector(x), self.num_heads)
        k, v = (
            self.keys_values(key_value)
            if past is None
            else past.keys_values(key_value, self.keys_values)
        )
        dropout = self.dropout if self.training else 0.0
        x = attend_biased(q, k, v, bias, scale=1.0, dropout=dropout)
        return self.output_projector(merge_heads(x)), bias


def relative_buckets(distance: torch.Tensor, bidirectional: bool) -> torch.Tensor:
    """Key position minus query position → bucket: exact when near, logarithmic when far."""
    buckets, base = BUCKETS, torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        base = (distance > 0) * buckets
        distance = distance.abs()
    else:
        distance = -distance.clamp(max=0)
    exact = buckets // 2
    # Below `exact` the logarithm is not used; the clamp keeps it finite.
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(MAX_DISTANCE / exact)
    far = exact + (ratio * (buckets - exact)).to(distance.dtype)
    return base + torch.where(distance < exact, distance, far.clamp(max=buckets - 1))


class T5TransformerLayer(Layer):
    layout = Layout(
        unnamed=(
            "self_attention_layer_norm",
            "cross_attention_layer_norm",
            "layer_norm",
        ),
    )
    division = Division(("input_projector", "gate_projector"), ("output_projector",))

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        key_value_dim: int,
        dropout: float,
        activation: ActivationLike,
        layer_norm_epsilon: float,
        num_heads: int,
        use_gated_activation: bool,
        is_decoder: bool,
        use_relative_attention_bias: bool,
    ) -> None:
        super().__init__()
        attention = (hidden_dim, key_value_dim, num_heads, dropout, is_decoder)
        self.self_attention = T5MultiHeadAttention(*attention, use_relative_attention_bias)
        self.self_attention_layer_norm = T5LayerNorm(hidden_dim, layer_norm_epsilon)
        self.self_attention_dropout = Dropout(dropout)
        if is_decoder:
            self.cross_attention = T5MultiHeadAttention(*attention)
            self.cross_attention_layer_norm = T5LayerNorm(hidden_dim, layer_norm_epsilon)
            self.cross_attention_dropout = Dropout(dropout)
        wide, narrow = random_normal(hidden_dim**-0.5), random_normal(intermediate_dim**-0.5)
        self.input_projector = Dense(hidden_dim, intermediate_dim, False, wide)
        self.gate_projector = (
            Dense(hidden_dim, intermediate_dim, False, wide) if use_gated_activation else None
        )
        self.activation = Activation(activation)
        self.output_projector = Dense(intermediate_dim, hidden_dim, False, narrow)
        self.layer_norm = T5LayerNorm(hidden_dim, layer_norm_epsilon)
        self.dropout_layer = Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        bias: torch.Tensor,
        distance: torch.Tensor,
        encoder_output: torch.Tensor | None = None,
        encoder_bias: torch.Tensor | None = None,
        past: Past | None = None,
        crossing: Crossing | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.self_attention_layer_norm(x)
        y, bias = self.self_attention(y, y, bias, distance, past)
        x = x + self.self_attention_dropout(y)
        if encoder_bias is not None:
            y = self.cross_attention_layer_norm(x)
            y, _ = self.cross_attention(y, encoder_output, encoder_bias, None, crossing)
            x = x + self.cross_attention_dropout(y)
        y = self.layer_norm(x)
        gate = self.activation(self.input_projector(y))
        y = gate if self.gate_projector is None else gate * self.gate_projector(y)
        return x + self.dropout_layer(self.output_projector(self.dropout_layer(y))), bias
