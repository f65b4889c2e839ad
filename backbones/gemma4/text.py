"""The decoder blocks of Gemma 4."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from ..layers.activations import gelu_approximate
from ..layers.attention import (
    ATTENTION,
    DIVISION,
    attend,
    attend_soft_capped,
    merge_heads,
    split_heads,
)
from ..layers.cache import Past
from ..layers.core import Dense, Dropout, EinsumDense, RMSNormalization
from ..layers.division import Division, Experts, Whole
from ..layers.gemma import rms_normed, times, within_range
from ..layers.initializers import zeros
from ..layers.layer import Layer
from ..layers.layout import Layout
from ..layers.masks import Mask
from ..layers.rotary import Tables, rotate
from ..layers.routing import ExpertBank, choose_experts, expert_weights

# Keys and values of a layer, `[batch, heads, length, head_dim]`.
KeyValue = tuple[torch.Tensor, torch.Tensor]


def key_value_sources(is_global: Sequence[bool], num_shared: int) -> dict[int, int]:
    """Which layer's keys and values each of the last `num_shared` layers uses: those of the last
    one before them that is of its kind. One without such a layer has its own.

    Raises:
        ValueError: there are fewer layers.
    """
    first = len(is_global) - num_shared
    if first < 0:
        raise ValueError(
            f"num_kv_shared_layers is {num_shared}, but there are {len(is_global)} layers."
        )
    if first == 0:  # those of another model, its local and its global ones
        return {i: int(kind) for i, kind in enumerate(is_global)} if num_shared else {}
    last = {kind: i for i, kind in enumerate(is_global[:first])}
    return {i: last[is_global[i]] for i in range(first, len(is_global)) if is_global[i] in last}


class Gemma4TextAttention(Layer):
    """Grouped-query attention whose queries, keys and values are normed, and scores not scaled.

    Args:
        logit_soft_cap: of the scores; the mask must then be a tensor.
    """

    layout = replace(
        ATTENTION,
        class_name="Gemma4TextAttention",
        order=("query", "key", "value", "key_norm", "query_norm", "attention_output"),
    )
    division = replace(
        DIVISION,
        shared=("query_norm", "key_norm"),
        heads=("num_query_heads", "num_key_value_heads"),
    )

    def __init__(
        self,
        hidden_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        logit_soft_cap: float | None,
        dropout: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"A head must have an even number of dimensions, not {head_dim}.")
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
        self.epsilon = epsilon
        self.dropout = dropout
        self.score: Callable[..., torch.Tensor] = (
            attend
            if logit_soft_cap is None
            else functools.partial(attend_soft_capped, soft_cap=logit_soft_cap)
        )
        heads = (num_query_heads, head_dim)
        self.query = EinsumDense("btd,ndh->btnh", hidden_dim, heads)
        self.query_norm = RMSNormalization(head_dim, epsilon)
        self.attention_output = EinsumDense("btnh,nhd->btd", heads, hidden_dim)
        self.add_projections(hidden_dim, (num_key_value_heads, head_dim))

    def add_projections(self, hidden_dim: int, heads: tuple[int, int]) -> None:
        self.key = EinsumDense("bsd,kdh->bskh", hidden_dim, heads)
        self.value = EinsumDense("bsd,kdh->bskh", hidden_dim, heads)
        self.key_norm = RMSNormalization(heads[1], self.epsilon)

    def projected(self, x: torch.Tensor) -> KeyValue:
        """Keys and values before their norms."""
        return (
            split_heads(self.key(x), self.num_key_value_heads),
            split_heads(self.value(x), self.num_key_value_heads),
        )

    def keys_and_values(
        self, x: torch.Tensor, tables: Tables, past: Past | None, shared: KeyValue | None
    ) -> KeyValue:
        k, v = self.projected(x)
        k, v = rotate(self.key_norm(k), tables), rms_normed(v, self.epsilon)
        return (k, v) if past is None else past.extend(k, v)

    def forward(
        self,
        x: torch.Tensor,
        mask: Mask,
        tables: Tables,
        past: Past | None,
        shared: KeyValue | None,
    ) -> tuple[torch.Tensor, KeyValue]:
        """`x` `[batch, length, dim]` → the same, and the keys and values; `shared` are those of an
        earlier layer.
        """
        q = rotate(self.query_norm(split_heads(self.query(x), self.num_query_heads)), tables)
        k, v = self.keys_and_values(x, tables, past, shared)
        dropout = self.dropout if self.training else 0.0
        x = self.score(q, k, v, mask, scale=1.0, dropout=dropout)
        return self.attention_output(merge_heads(x)), (k, v)


class OneProjectionAttention(Gemma4TextAttention):
    """One projection gives keys and values; norms and positions tell them apart."""

    def add_projections(self, hidden_dim: int, heads: tuple[int, int]) -> None:
        self.key = EinsumDense("bsd,kdh->bskh", hidden_dim, heads)
        self.key_norm = RMSNormalization(heads[1], self.epsilon)

    def projected(self, x: torch.Tensor) -> KeyValue:
        k = split_heads(self.key(x), self.num_key_value_heads)
        return k, k


class SharedAttention(Gemma4TextAttention):
    """With the keys and values of another layer."""

    def add_projections(self, hidden_dim: int, heads: tuple[int, int]) -> None:
        pass

    def keys_and_values(
        self, x: torch.Tensor, tables: Tables, past: Past | None, shared: KeyValue | None
    ) -> KeyValue:
        assert shared is not None
        return shared


class Gemma4Router(Layer):
    """Which experts each token goes to, and their weights."""

    division = Whole()

    def __init__(self, hidden_dim: int, num_experts: int, top_k: int, epsilon: float) -> None:
        super().__init__()
        self.top_k = top_k
        self.epsilon = epsilon
        self.per_dim_scale = nn.Parameter(torch.ones(hidden_dim))
        self.proj = Dense(hidden_dim, num_experts, use_bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[tokens, dim]` → probabilities and experts, `[tokens, top_k]`."""
        x = times(rms_normed(x, self.epsilon), x.shape[-1] ** -0.5)
        return choose_experts(self.proj(x * self.per_dim_scale.to(x.dtype)), self.top_k, True)


class Gemma4MoEBlock(ExpertBank):
    """A gated feed-forward network for each expert, with a learned weight of its own."""

    division = Experts(
        weights={"gate_proj": 0, "up_proj": 0, "down_proj": 0, "per_expert_scale": 0}
    )

    def __init__(self, num_experts: int, hidden_dim: int, intermediate_dim: int) -> None:
        super().__init__()
        inwards = (num_experts, hidden_dim, intermediate_dim)
        self.gate_proj = expert_weights(inwards, zeros)
        self.up_proj = expert_weights(inwards, zeros)
        self.down_proj = expert_weights((num_experts, intermediate_dim, hidden_dim), zeros)
        self.per_expert_scale = nn.Parameter(torch.ones(num_experts))

    def forward(
        self, x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """`x` `[tokens, dim]`; `experts` and `weights` of each token `[tokens, top_k]`."""
        routes = self.routes(experts, len(self.per_expert_scale))
        rows = routes.rows(x)
        gate = gelu_approximate(routes.product(rows, self.gate_proj))
        rows = routes.product(gate * routes.product(rows, self.up_proj), self.down_proj)
        scale = self.per_expert_scale[experts.clamp(max=len(self.per_expert_scale) - 1)]
        return routes.tokens(rows, weights * scale)


class Gemma4TextDecoderBlock(Layer):
    """Attention and a gated feed-forward network, each between two norms; then perhaps what the
    token says to this layer.

    Args:
        per_layer_dim: width of what the token says, 0 for nothing.
    """

    layer_scalar: torch.Tensor

    layout = Layout(
        class_name="Gemma4TextDecoderBlock",
        attributes={"ffw_gating": "gating_ffw", "ffw_gating_2": "gating_ffw_2"},
        order=(
            "pre_attention_norm",
            "post_attention_norm",
            "attention",
            "pre_ffw_norm",
            "post_ffw_norm",
            "ffw_gating",
            "ffw_gating_2",
            "ffw_linear",
            "pre_ffw_norm_moe",
            "post_ffw_norm_dense",
            "post_ffw_norm_moe_path",
            "moe_router",
            "moe_expert_bank",
            "per_layer_input_gate",
            "per_layer_up_proj",
            "post_per_layer_input_norm",
        ),
    )
    division = Division(
        ("ffw_gating", "ffw_gating_2"),
        ("ffw_linear",),
        whole=("per_layer_input_gate", "per_layer_up_proj"),
    )

    def __init__(
        self,
        attention: Gemma4TextAttention,
        hidden_dim: int,
        intermediate_dim: int,
        per_layer_dim: int,
        dropout: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.pre_attention_norm = RMSNormalization(hidden_dim, epsilon)
        self.post_attention_norm = RMSNormalization(hidden_dim, epsilon)
        self.attention = attention
        self.attention_dropout = Dropout(dropout)
        self.feedforward_dropout = Dropout(dropout)
        self.pre_ffw_norm = RMSNormalization(hidden_dim, epsilon)
        self.post_ffw_norm = RMSNormalization(hidden_dim, epsilon)
        self.ffw_gating = EinsumDense("btd,df->btf", hidden_dim, intermediate_dim)
        self.ffw_gating_2 = EinsumDense("btd,df->btf", hidden_dim, intermediate_dim)
        self.ffw_linear = EinsumDense("btf,fd->btd", intermediate_dim, hidden_dim)
        if per_layer_dim:
            self.per_layer_input_gate = Dense(hidden_dim, per_layer_dim, use_bias=False)
            self.per_layer_up_proj = Dense(per_layer_dim, hidden_dim, use_bias=False)
            self.post_per_layer_input_norm = RMSNormalization(hidden_dim, epsilon)
        self.register_buffer("layer_scalar", torch.ones(()))

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pre_ffw_norm(x)
        return self.ffw_linear(gelu_approximate(self.ffw_gating(x)) * self.ffw_gating_2(x))

    def forward(
        self,
        x: torch.Tensor,
        mask: Mask,
        tables: Tables,
        past: Past | None,
        shared: KeyValue | None,
        per_layer_input: torch.Tensor | None,
        scalar: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, KeyValue]:
        """As attention's; `per_layer_input` is `[batch, length, per_layer_dim]`, and `scalar` in
        place of `layer_scalar`.
        """
        x = within_range(x)
        y, found = self.attention(self.pre_attention_norm(x), mask, tables, past, shared)
        x = within_range(x + self.attention_dropout(self.post_attention_norm(y)))
        y = self.post_ffw_norm(self.feed_forward(x))
        x = within_range(x + self.feedforward_dropout(y))
        if per_layer_input is not None:
            y = gelu_approximate(self.per_layer_input_gate(x)) * per_layer_input
            x = x + self.post_per_layer_input_norm(self.per_layer_up_proj(y))
        scalar = self.layer_scalar if scalar is None else scalar
        return x * scalar.to(x.dtype), found


class Gemma4MixtureBlock(Gemma4TextDecoderBlock):
    """With a mixture of experts beside the feed-forward network."""

    def __init__(
        self,
        attention: Gemma4TextAttention,
        hidden_dim: int,
        intermediate_dim: int,
        per_layer_dim: int,
        dropout: float,
        epsilon: float,
        router: Gemma4Router,
        experts: Gemma4MoEBlock,
    ) -> None:
        super().__init__(attention, hidden_dim, intermediate_dim, per_layer_dim, dropout, epsilon)
        self.pre_ffw_norm_moe = RMSNormalization(hidden_dim, epsilon)
        self.post_ffw_norm_dense = RMSNormalization(hidden_dim, epsilon)
        self.post_ffw_norm_moe_path = RMSNormalization(hidden_dim, epsilon)
        self.moe_router = router
        self.moe_expert_bank = experts

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        dense = self.post_ffw_norm_dense(super().feed_forward(x))
        weights, experts = self.moe_router(x.flatten(0, 1))
        tokens = self.pre_ffw_norm_moe(x).flatten(0, 1)
        mixed = self.moe_expert_bank(tokens, experts, weights).view_as(x)
        return dense + self.post_ffw_norm_moe_path(mixed)
