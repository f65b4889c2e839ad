"""What T5Gemma (arXiv:2504.06225) and T5Gemma 2 (arXiv:2512.14856) share.

`tables` are the cosines and sines of rotary positions, `bias` what hides keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .activations import Activation
from .attention import (
    ATTENTION,
    DIVISION,
    attend_biased,
    attend_biased_soft_capped,
    merge_heads,
    split_heads,
)
from .cache import CrossKeyValueShape, Pair, Past
from .core import Dense, Dropout, EinsumDense, UnitRMSNormalization
from .division import Division
from .initializers import random_normal
from .layer import Layer
from .layout import Layout
from .masks import SLIDING, check_layer_types
from .rotary import Tables, rotate


def check_layers(layer_types: Sequence[str], count: int, window: int | None) -> None:
    """Compare the types of one side's layers with their number and window.

    Raises:
        ValueError: there are too few, or unknown ones, or no window for them.
    """
    if SLIDING in check_layer_types(layer_types, count) and window is None:
        raise ValueError(f"Layers of type {SLIDING} need a sliding_window.")


def cross_shapes(
    layer_types: Sequence[str], num_heads: int, head_dim: int, window: int | None
) -> list[CrossKeyValueShape]:
    """What the decoder's layers keep; `window` is that of those which have one."""
    return [
        CrossKeyValueShape(num_heads, head_dim, window if kind == SLIDING else None)
        for kind in layer_types
    ]


def soft_capped(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    return logits if cap is None else torch.tanh(logits / cap) * cap


class T5GemmaAttention(Layer):
    """Grouped-query attention with rotary positions.

    Args:
        key_value_dim: width of what keys and values come from.
        query_norm, key_norm: of each head's queries and keys, if there are any.
    """

    layout = ATTENTION
    division = replace(
        DIVISION,
        shared=("query_norm", "key_norm"),
        heads=("num_query_heads", "num_key_value_heads"),
    )

    def __init__(
        self,
        hidden_dim: int,
        key_value_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        query_pre_attn_scalar: float,
        use_bias: bool,
        initializer_range: float,
        dropout: float,
        logit_soft_cap: float | None,
        query_norm: nn.Module | None = None,
        key_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
        self.scale = query_pre_attn_scalar**-0.5
        self.dropout = dropout
        self.attend_biased: Callable[..., torch.Tensor] = (
            attend_biased
            if logit_soft_cap is None
            else functools.partial(attend_biased_soft_capped, soft_cap=logit_soft_cap)
        )
        query, key_value = (num_query_heads, head_dim), (num_key_value_heads, head_dim)
        options: dict[str, Any] = {
            "use_bias": use_bias,
            "kernel_initializer": random_normal(initializer_range),
        }
        self.query = EinsumDense("btd,dnh->btnh", hidden_dim, query, **options)
        self.key = EinsumDense("bsd,dkh->bskh", key_value_dim, key_value, **options)
        self.value = EinsumDense("bsd,dkh->bskh", key_value_dim, key_value, **options)
        self.attention_output = EinsumDense("btnh,nhd->btd", query, hidden_dim, **options)
        self.query_norm = query_norm or nn.Identity()
        self.key_norm = key_norm or nn.Identity()

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        return self.query_norm(split_heads(self.query(x), self.num_query_heads))

    def keys_values(self, x: torch.Tensor) -> Pair:
        key = self.key_norm(split_heads(self.key(x), self.num_key_value_heads))
        return key, split_heads(self.value(x), self.num_key_value_heads)

    def own_keys_values(self, x: torch.Tensor, tables: Tables, past: Past | None) -> Pair:
        """Those of the side that queries, at its positions, and before."""
        key, value = self.keys_values(x)
        key = rotate(key, tables)
        return (key, value) if past is None else past.extend(key, value)

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        dropout = self.dropout if self.training else 0.0
        x = self.attend_biased(q, k, v, bias, scale=self.scale, dropout=dropout)
        return self.attention_output(merge_heads(x))

    def forward(
        self, x: torch.Tensor, bias: torch.Tensor, tables: Tables, past: Past | None = None
    ) -> torch.Tensor:
        q = rotate(self.queries(x), tables)
        k, v = self.own_keys_values(x, tables, past)
        return self.attend(q, k, v, bias)


class T5GemmaMLP(Layer):
    division = Division(("gate_proj", "up_proj"), ("down_proj",))

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        activation: str,
        dropout: float,
        initializer_range: float,
    ) -> None:
        super().__init__()
        init = random_normal(initializer_range)
        self.activation = Activation(activation)
        self.gate_proj = Dense(hidden_dim, intermediate_dim, False, init)
        self.up_proj = Dense(hidden_dim, intermediate_dim, False, init)
        self.down_proj = Dense(intermediate_dim, hidden_dim, False, init)
        self.mlp_dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(self.mlp_dropout(x))


class T5GemmaEncoderLayer(Layer):
    layout = Layout(
        attributes={
            "self_attention": "self_attn",
            "pre_self_attention_layernorm": "pre_self_attn_layernorm",
            "post_self_attention_layernorm": "post_self_attn_layernorm",
        },
    )

    def __init__(
        self,
        hidden_dim: int,
        self_attention: nn.Module,
        mlp: T5GemmaMLP,
        epsilon: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.pre_self_attention_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.post_self_attention_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.mlp = mlp
        self.pre_feedforward_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.post_feedforward_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.residual_dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, bias: torch.Tensor, tables: Tables) -> torch.Tensor:
        y = self.self_attention(self.pre_self_attention_layernorm(x), bias, tables)
        x = x + self.residual_dropout(self.post_self_attention_layernorm(y))
        y = self.mlp(self.pre_feedforward_layernorm(x))
        return x + self.residual_dropout(self.post_feedforward_layernorm(y))
