"""The decoder block of Llama (arXiv:2302.13971) and of the families that follow it.

Families subclass these for the Keras names of a block and its parts. `tables` are the cosines and
sines of rotary positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from .attention import DIVISION, PRIVATE_ATTENTION, attend, merge_heads, split_heads
from .cache import Past
from .core import Dense, Dropout, EinsumDense
from .division import Division, Experts
from .dtypes import for_projections
from .initializers import Initializer, glorot_uniform, random_normal
from .layer import Layer
from .layout import Layout
from .masks import Mask
from .rotary import Tables, rotate
from .routing import ExpertBank, expert_weights

INIT = random_normal(0.02)
PROJECTIONS = {
    "feedforward_intermediate_dense": "_feedforward_intermediate_dense",
    "feedforward_gate_dense": "_feedforward_gate_dense",
    "feedforward_output_dense": "_feedforward_output_dense",
}


class GroupedQueryAttention(Layer):
    """Several heads of queries share one of keys and values (arXiv:2305.13245); all are rotated."""

    layout = PRIVATE_ATTENTION
    division = replace(DIVISION, heads=("num_query_heads", "num_key_value_heads"))

    def __init__(
        self,
        hidden_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        dropout: float,
        use_bias: bool = False,
    ) -> None:
        super().__init__()
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
        query, key_value = (num_query_heads, head_dim), (num_key_value_heads, head_dim)
        self.query = EinsumDense("bqm,muh->bquh", hidden_dim, query, use_bias, INIT)
        self.key = EinsumDense("bkm,mvh->bkvh", hidden_dim, key_value, use_bias, INIT)
        self.value = EinsumDense("bkm,mvh->bkvh", hidden_dim, key_value, use_bias, INIT)
        self.dropout_layer = Dropout(dropout)
        self.attention_output = EinsumDense(
            "bquh,uhm->bqm", query, hidden_dim, kernel_initializer=INIT
        )

    def forward(
        self, x: torch.Tensor, mask: Mask, tables: Tables, past: Past | None
    ) -> torch.Tensor:
        x = for_projections(x)
        q = rotate(split_heads(self.query(x), self.num_query_heads), tables)
        k = rotate(split_heads(self.key(x), self.num_key_value_heads), tables)
        v = split_heads(self.value(x), self.num_key_value_heads)
        return self.attend(q, k, v, mask, past)

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: Mask,
        past: Past | None,
    ) -> torch.Tensor:
        if past is not None:
            k, v = past.extend(k, v)
        x = attend(q, k, v, mask)
        return self.attention_output(self.dropout_layer(merge_heads(x)))


class NormedQueryAttention(GroupedQueryAttention):
    """With norms on the queries and keys of each head."""

    layout = replace(
        PRIVATE_ATTENTION,
        attributes={
            **PRIVATE_ATTENTION.attributes,
            "query_dense_layernorm": "_query_dense_layer_norm",
            "key_dense_layernorm": "_key_dense_layer_norm",
        },
        order=(
            "query",
            "query_dense_layernorm",
            "key",
            "key_dense_layernorm",
            "value",
            "attention_output",
        ),
    )
    division = replace(
        GroupedQueryAttention.division, shared=("query_dense_layernorm", "key_dense_layernorm")
    )

    def __init__(
        self,
        hidden_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        dropout: float,
        query_norm: nn.Module,
        key_norm: nn.Module,
    ) -> None:
        super().__init__(hidden_dim, num_query_heads, num_key_value_heads, head_dim, dropout)
        self.query_dense_layernorm = query_norm
        self.key_dense_layernorm = key_norm

    def forward(
        self, x: torch.Tensor, mask: Mask, tables: Tables, past: Past | None
    ) -> torch.Tensor:
        x = for_projections(x)
        q = self.query_dense_layernorm(split_heads(self.query(x), self.num_query_heads))
        k = self.key_dense_layernorm(split_heads(self.key(x), self.num_key_value_heads))
        v = split_heads(self.value(x), self.num_key_value_heads)
        return self.attend(rotate(q, tables), rotate(k, tables), v, mask, past)


class GatedProjections(Layer):
    """Holds the three projections of a gated feed-forward network (arXiv:2002.05202), which in
    Keras may belong to a block directly.
    """

    division = Division(
        ("feedforward_intermediate_dense", "feedforward_gate_dense"), ("feedforward_output_dense",)
    )

    def add_projections(
        self, hidden_dim: int, intermediate_dim: int, initializer: Initializer
    ) -> None:
        def project(inputs: int, outputs: int) -> Dense:
            return Dense(inputs, outputs, use_bias=False, kernel_initializer=initializer)

        self.feedforward_intermediate_dense = project(hidden_dim, intermediate_dim)
        self.feedforward_gate_dense = project(hidden_dim, intermediate_dim)
        self.feedforward_output_dense = project(intermediate_dim, hidden_dim)

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        # The kernels of silu compute in float32 whatever the dtype.
        x = for_projections(x)
        gate = F.silu(self.feedforward_gate_dense(x))
        return self.feedforward_output_dense(self.feedforward_intermediate_dense(x) * gate)


class GatedFeedForward(GatedProjections):
    layout = Layout(attributes=PROJECTIONS, built_on_call=True)

    def __init__(
        self, hidden_dim: int, intermediate_dim: int, initializer: Initializer = glorot_uniform
    ) -> None:
        super().__init__()
        self.add_projections(hidden_dim, intermediate_dim, initializer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.feed_forward(x)


class GatedExperts(ExpertBank):
    """A gated feed-forward network for each expert; matrices are `[experts, in, out]`."""

    division = Experts(weights={"gate_and_intermediate": 0, "output": 0})

    def __init__(self, num_experts: int, hidden_dim: int, intermediate_dim: int) -> None:
        super().__init__()
        self.gate_and_intermediate = expert_weights(
            (num_experts, hidden_dim, 2 * intermediate_dim), INIT
        )
        self.output = expert_weights((num_experts, intermediate_dim, hidden_dim), INIT)

    def forward(
        self, x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """`x` `[tokens, dim]`; `experts` and `weights` of each token `[tokens, top_k]`."""
        routes = self.routes(experts, self.output.shape[0])
        gate, x = routes.product(routes.rows(x), self.gate_and_intermediate).chunk(2, dim=-1)
        return routes.tokens(routes.product(x * F.silu(gate), self.output), weights)


BLOCK = {
    "self_attention": "_self_attention_layer",
    "self_attention_layernorm": "_self_attention_layernorm",
    "feedforward_layernorm": "_feedforward_layernorm",
}


class Decoder(Layer):
    """Attention and a feed-forward network, each behind a norm; subclasses add the second half."""

    feedforward_layernorm: nn.Module
    feed_forward: Callable[[torch.Tensor], torch.Tensor]

    def __init__(
        self, attention: GroupedQueryAttention, attention_norm: nn.Module, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = attention
        self.self_attention_layernorm = attention_norm
        self.self_attention_dropout = Dropout(dropout)

    def forward(
        self, x: torch.Tensor, mask: Mask, tables: Tables, past: Past | None
    ) -> torch.Tensor:
        residual = x
        x = self.self_attention(self.self_attention_layernorm(x), mask, tables, past)
        x = self.self_attention_dropout(x) + residual
        return x + self.feed_forward(self.feedforward_layernorm(x))


class SparseDecoder(Decoder):
    """With a module for the feed-forward network."""

    layout = Layout(attributes=BLOCK, unnamed=("mlp",), built_on_call=True)

    def __init__(
        self,
        attention: GroupedQueryAttention,
        attention_norm: nn.Module,
        mlp: nn.Module,
        feedforward_norm: nn.Module,
        dropout: float,
    ) -> None:
        super().__init__(attention, attention_norm, dropout)
        self.mlp = mlp
        self.feedforward_layernorm = feedforward_norm

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x)


class GatedDecoder(GatedProjections, Decoder):
    """With the projections of a gated feed-forward network as its own."""

    layout = Layout(attributes={**BLOCK, **PROJECTIONS}, built_on_call=True)

    def __init__(
        self,
        attention: GroupedQueryAttention,
        attention_norm: nn.Module,
        feedforward_norm: nn.Module,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float,
    ) -> None:
        super().__init__(attention, attention_norm, dropout)
        self.add_projections(hidden_dim, intermediate_dim, INIT)
        self.feedforward_layernorm = feedforward_norm
