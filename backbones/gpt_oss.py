"""gpt-oss (arXiv:2508.10925)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.attention import ATTENTION, DIVISION, attend, merge_heads, split_heads
from .layers.cache import KeyValueShape, Past, Step
from .layers.core import Dense, Dropout, EinsumDense, ReversibleEmbedding, RMSNormalization
from .layers.division import Division, Experts
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal, zeros
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.masks import FULL, SLIDING, check_layer_types
from .layers.rotary import Tables, rotary_tables, rotate_part, yarn_frequencies, yarn_magnitude
from .layers.routing import ExpertBank, expert_weights
from .layers.transformer import head_dim as default_head_dim


class GptOssLayerNormalization(RMSNormalization):
    """The RMS norm under its Keras name."""


class GptOssAttention(Layer):
    """Grouped-query attention with rotary positions and a sink in each head."""

    layout = ATTENTION
    division = replace(
        DIVISION, weights={"sinks": 0}, heads=("num_query_heads", "num_key_value_heads")
    )

    def __init__(
        self,
        hidden_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
        query, key_value = (num_query_heads, head_dim), (num_key_value_heads, head_dim)
        init = random_normal(0.02)
        self.query = EinsumDense("bqm,muh->bquh", hidden_dim, query, True, init)
        self.key = EinsumDense("bkm,mvh->bkvh", hidden_dim, key_value, True, init)
        self.value = EinsumDense("bkm,mvh->bkvh", hidden_dim, key_value, True, init)
        self.dropout_layer = Dropout(dropout)
        self.attention_output = EinsumDense("bquh,uhm->bqm", query, hidden_dim, True, init)
        self.sinks = nn.Parameter(torch.empty(num_query_heads))
        random_normal(0.05)(self.sinks, num_query_heads, num_query_heads)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor,
        tables: Tables,
        past: Past | None,
    ) -> torch.Tensor:
        q = rotate_part(split_heads(self.query(x), self.num_query_heads), tables)
        k = rotate_part(split_heads(self.key(x), self.num_key_value_heads), tables)
        v = split_heads(self.value(x), self.num_key_value_heads)
        if past is not None:
            k, v = past.extend(k, v)
        x = attend_with_sinks(q, k, v, mask, self.sinks)
        return self.attention_output(self.dropout_layer(merge_heads(x)))


def attend_with_sinks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    sinks: torch.Tensor,
) -> torch.Tensor:
    """As `attend`; each head has one more key, whose score is its sink and whose value is zero.

    Keys may serve several heads, so the sink stands in one more dimension of the queries, in which
    the sink's key is 1 and all others are 0.
    """
    dim = query.shape[-1]
    more = 8 - dim % 8  # to a multiple of eight, which the fused kernels want
    sink = (sinks * math.sqrt(dim)).to(query.dtype)[:, None, None].expand(*query.shape[:3], 1)
    one = F.pad(torch.ones_like(key[:, :, :1, :1]), (dim, more - 1))
    query = F.pad(torch.cat((query, sink), dim=-1), (0, more - 1))
    key = torch.cat((one, F.pad(key, (0, more))), dim=2)
    value = F.pad(value, (0, more, 1, 0))
    mask = F.pad(mask, (1, 0), value=True)
    return attend(query, key, value, mask, scale=dim**-0.5)[..., :dim]


class GptOssExperts(ExpertBank):
    """Gated feed-forward networks; matrices are `[experts, in, out]`.

    The gates are the even outputs of the first product, what they gate the odd ones.
    """

    division = Experts(
        weights={"gate_up_proj": 0, "gate_up_proj_bias": 0, "down_proj": 0, "down_proj_bias": 0}
    )
    alpha = 1.702
    limit = 7.0

    def __init__(self, num_experts: int, hidden_dim: int, intermediate_dim: int) -> None:
        super().__init__()
        init, outwards = random_normal(0.02), (num_experts, intermediate_dim, hidden_dim)
        inwards = (num_experts, hidden_dim, 2 * intermediate_dim)
        self.gate_up_proj = expert_weights(inwards, init)
        self.gate_up_proj_bias = expert_weights((num_experts, 2 * intermediate_dim), zeros)
        self.down_proj = expert_weights(outwards, init)
        self.down_proj_bias = expert_weights((num_experts, hidden_dim), zeros)

    def forward(
        self, x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """`x` `[tokens, dim]`; `experts` and `weights` of each token `[tokens, top_k]`."""
        routes = self.routes(experts, self.down_proj.shape[0])
        x = routes.product(routes.rows(x), self.gate_up_proj, self.gate_up_proj_bias)
        gate, up = x.unflatten(-1, (-1, 2)).unbind(-1)
        gate = gate.clamp(max=self.limit)
        up = up.clamp(-self.limit, self.limit)
        x = (up + 1) * gate * torch.sigmoid(self.alpha * gate)
        x = routes.product(x, self.down_proj, self.down_proj_bias)
        return routes.tokens(x, weights)


class GptOssTopKRouter(Layer):
    layout = Layout(built_on_call=True)
    division = Division(whole=("router_dense",))

    def __init__(self, hidden_dim: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.router_dense = Dense(hidden_dim, num_experts, kernel_initializer=random_normal(0.02))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, experts = self.router_dense(x).float().topk(self.top_k)
        return logits.softmax(-1), experts


class GptOssSparseMoeBlock(Layer):
    """The feed-forward networks of each token's `top_k` experts."""

    layout = Layout(built_on_call=True)

    def __init__(
        self, hidden_dim: int, intermediate_dim: int, num_experts: int, top_k: int
    ) -> None:
        super().__init__()
        self.router = GptOssTopKRouter(hidden_dim, num_experts, top_k)
        self.experts = GptOssExperts(num_experts, hidden_dim, intermediate_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(0, 1)
        weights, experts = self.router(tokens)
        return self.experts(tokens, experts, weights).view_as(x)


class GptOssTransformerDecoder(Layer):
    layout = Layout(attributes={"self_attention": "self_attention_layer"}, built_on_call=True)

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        num_experts: int,
        top_k: int,
        layer_norm_epsilon: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.self_attention = GptOssAttention(
            hidden_dim, num_query_heads, num_key_value_heads, head_dim, dropout
        )
        self.input_layernorm = GptOssLayerNormalization(hidden_dim, layer_norm_epsilon)
        self.post_attention_layernorm = GptOssLayerNormalization(hidden_dim, layer_norm_epsilon)
        self.sparse_moe_block = GptOssSparseMoeBlock(
            hidden_dim, intermediate_dim, num_experts, top_k
        )

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor,
        tables: Tables,
        past: Past | None,
    ) -> torch.Tensor:
        x = x + self.self_attention(self.input_layernorm(x), mask, tables, past)
        return x + self.sparse_moe_block(self.post_attention_layernorm(x))


class GptOssBackbone(Backbone):
    """Decoder with attention sinks and a mixture of experts for the feed-forward network.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside an expert.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        num_experts: experts of a block.
        top_k: experts of each token.
        rope_max_wavelength: base of the rotary frequencies.
        rope_scaling_factor: how far positions are stretched beyond 4096 (YaRN, arXiv:2309.00071).
        layer_norm_epsilon: of the norms.
        sliding_window: keys before the query that it sees beside itself, in blocks with a window;
            `None` for all.
        head_dim: dimensions of a head; `None` for `hidden_dim // num_query_heads`.
        dropout: rate on the output of attention, before its projection.
        output_router_logits: has no effect, as in KerasHub.
        layer_types: `sliding_attention` or `full_attention` for each block; `None` for a window in
            the second, fourth, … one, as in KerasHub, which has no such argument. In gpt-oss as
            published they are the first, third, … one.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: unknown or too few `layer_types`.
    """

    unsaved: ClassVar = {"layer_types": (None,)}

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_query_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_key_value_heads: int,
        num_experts: int,
        top_k: int = 2,
        rope_max_wavelength: float = 10000,
        rope_scaling_factor: float = 1.0,
        layer_norm_epsilon: float = 1e-6,
        sliding_window: int | None = 4096,
        head_dim: int | None = None,
        dropout: float = 0,
        output_router_logits: bool = False,
        dtype: DTypeLike = None,
        layer_types: Sequence[str] | None = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.head_size = head_dim or default_head_dim(hidden_dim, num_query_heads)
        self.rope_max_wavelength = rope_max_wavelength
        self.rope_scaling_factor = rope_scaling_factor
        types = check_layer_types(layer_types or keras_layer_types(num_layers), num_layers)
        width = sliding_window + 1 if sliding_window else None
        self.windows = [width if kind == SLIDING else None for kind in types]
        self.cache_shapes = [
            KeyValueShape(num_key_value_heads, self.head_size, window) for window in self.windows
        ]
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, False, random_normal(0.01)
        )
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                GptOssTransformerDecoder(
                    hidden_dim,
                    intermediate_dim,
                    num_query_heads,
                    num_key_value_heads,
                    self.head_size,
                    num_experts,
                    top_k,
                    layer_norm_epsilon,
                    dropout,
                )
                for _ in range(num_layers)
            ),
        )
        self.sequence_output_layernorm = GptOssLayerNormalization(hidden_dim, layer_norm_epsilon)

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        x = self.token_embedding(token_ids)
        step = Step(x, padding_mask, cache, cache_update_index)
        dim = self.head_size // 2 * 2
        frequencies = yarn_frequencies(
            dim, self.rope_max_wavelength, x.device, self.rope_scaling_factor
        )
        magnitude = yarn_magnitude(self.rope_scaling_factor)
        tables = rotary_tables(step.positions, frequencies, x.dtype, magnitude)
        masks = {window: step.full_mask(window) for window in dict.fromkeys(self.windows)}
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, masks[self.windows[i]], tables, step.past(i))
        return self.sequence_output_layernorm(x)


def keras_layer_types(num_layers: int) -> list[str]:
    return [SLIDING if i % 2 else FULL for i in range(num_layers)]
