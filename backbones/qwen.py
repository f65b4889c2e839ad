"""Qwen2 (arXiv:2407.10671) and Qwen2.5 (arXiv:2412.15115)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from .backbone import Backbone, BackboneOptions
from .inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.attention import attend, merge_heads, split_heads
from .layers.cache import KeyValueShape, Past, Step
from .layers.core import Dense, Dropout, EinsumDense, ReversibleEmbedding, RMSNormalization
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal
from .layers.layout import Layout, Stack
from .layers.rotary import rotary_frequencies, rotary_tables, rotate
from .layers.transformer import head_dim

if TYPE_CHECKING:
    from typing_extensions import Unpack


class QwenLayerNorm(RMSNormalization):
    """The RMS norm under its Keras name."""


class QwenAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    layout = Layout(
        attributes={
            "query": "_query_dense",
            "key": "_key_dense",
            "value": "_value_dense",
            "attention_output": "_output_dense",
            "dropout_layer": "_dropout_layer",
            "attention_softmax": "_softmax",
        },
        weightless={
            "attention_softmax": "Softmax",
            "rotary_embedding_layer": "RotaryEmbedding",
        },
        unnamed=("dropout_layer", "rotary_embedding_layer"),
        built_on_call=True,
    )

    def __init__(
        self, hidden_dim: int, num_query_heads: int, num_key_value_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
        dim = head_dim(hidden_dim, num_query_heads)
        query, key_value = (num_query_heads, dim), (num_key_value_heads, dim)
        init = random_normal(0.02)
        self.query = EinsumDense(
            "bqm,muh->bquh", hidden_dim, query, use_bias=True, kernel_initializer=init
        )
        self.key = EinsumDense(
            "bkm,mvh->bkvh", hidden_dim, key_value, use_bias=True, kernel_initializer=init
        )
        self.value = EinsumDense(
            "bkm,mvh->bkvh", hidden_dim, key_value, use_bias=True, kernel_initializer=init
        )
        self.dropout_layer = Dropout(dropout)
        self.attention_output = EinsumDense(
            "bquh,uhm->bqm", query, hidden_dim, kernel_initializer=init
        )

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        tables: tuple[torch.Tensor, torch.Tensor],
        past: Past | None,
    ) -> torch.Tensor:
        q = rotate(split_heads(self.query(x), self.num_query_heads), tables)
        k = rotate(split_heads(self.key(x), self.num_key_value_heads), tables)
        v = split_heads(self.value(x), self.num_key_value_heads)
        if past is not None:
            k, v = past.extend(k, v)
        x = attend(q, k, v, mask, is_causal=mask is None)
        return self.attention_output(self.dropout_layer(merge_heads(x)))


class QwenTransformerDecoder(nn.Module):
    layout = Layout(
        attributes={
            "self_attention": "_self_attention_layer",
            "self_attention_layernorm": "_self_attention_layernorm",
            "self_attention_dropout": "_self_attention_dropout",
            "feedforward_intermediate_dense": "_feedforward_intermediate_dense",
            "feedforward_gate_dense": "_feedforward_gate_dense",
            "feedforward_output_dense": "_feedforward_output_dense",
            "feedforward_layernorm": "_feedforward_layernorm",
        },
        built_on_call=True,
    )

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        layer_norm_epsilon: float,
        dropout: float,
    ) -> None:
        super().__init__()
        init = random_normal(0.02)
        self.self_attention = QwenAttention(
            hidden_dim, num_query_heads, num_key_value_heads, dropout
        )
        self.self_attention_layernorm = QwenLayerNorm(hidden_dim, layer_norm_epsilon)
        self.self_attention_dropout = Dropout(dropout)
        self.feedforward_intermediate_dense = Dense(
            hidden_dim, intermediate_dim, use_bias=False, kernel_initializer=init
        )
        self.feedforward_gate_dense = Dense(
            hidden_dim, intermediate_dim, use_bias=False, kernel_initializer=init
        )
        self.feedforward_output_dense = Dense(
            intermediate_dim, hidden_dim, use_bias=False, kernel_initializer=init
        )
        self.feedforward_layernorm = QwenLayerNorm(hidden_dim, layer_norm_epsilon)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        tables: tuple[torch.Tensor, torch.Tensor],
        past: Past | None,
    ) -> torch.Tensor:
        residual = x
        x = self.self_attention(self.self_attention_layernorm(x), mask, tables, past)
        x = residual = self.self_attention_dropout(x) + residual
        x = self.feedforward_layernorm(x)
        # The kernels of silu compute in float32 whatever the dtype.
        gate = F.silu(self.feedforward_gate_dense(x))
        x = self.feedforward_output_dense(self.feedforward_intermediate_dense(x) * gate)
        return x + residual


class QwenBackbone(Backbone):
    """Llama's decoder with biases in the projections of queries, keys and values.

    With `use_sliding_window_attention` a query sees `sliding_window_size` keys, itself included.
    (KerasHub's torch backend drops the window, its other backends apply it.)

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        rope_max_wavelength: float = 10000,
        rope_scaling_factor: float = 1.0,
        layer_norm_epsilon: float = 1e-6,
        dropout: float = 0,
        dtype: DTypeLike = None,
        tie_word_embeddings: bool = True,
        use_sliding_window_attention: bool = False,
        sliding_window_size: int = 32768,
        **options: Unpack[BackboneOptions],
    ) -> None:
        super().__init__(dtype, **options)
        self.head_dim = head_dim(hidden_dim, num_query_heads)
        self.rope_max_wavelength = rope_max_wavelength
        self.rope_scaling_factor = rope_scaling_factor
        self.window = sliding_window_size if use_sliding_window_attention else None
        self.cache_shapes = [
            KeyValueShape(num_key_value_heads, self.head_dim, self.window)
        ] * num_layers
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, tie_word_embeddings, random_normal(0.01)
        )
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                QwenTransformerDecoder(
                    hidden_dim,
                    intermediate_dim,
                    num_query_heads,
                    num_key_value_heads,
                    layer_norm_epsilon,
                    dropout,
                )
                for _ in range(num_layers)
            ),
        )
        self.sequence_output_layernorm = QwenLayerNorm(hidden_dim, layer_norm_epsilon)

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        x = self.token_embedding(token_ids)
        step = Step(x, padding_mask, cache, cache_update_index)
        frequencies = rotary_frequencies(
            self.head_dim, self.rope_max_wavelength, x.device, self.rope_scaling_factor
        )
        tables = rotary_tables(step.positions, frequencies, x.dtype)
        mask = step.mask(self.window)
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, mask, tables, step.past(i))
        return self.sequence_output_layernorm(x)


Qwen2Backbone = QwenBackbone
