"""BLOOM (arXiv:2211.05100)."""

from __future__ import annotations

import torch

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.activations import Activation
from .layers.alibi import alibi_bias
from .layers.attention import attend, merge_heads, split_heads
from .layers.cache import KeyValueShape, Past, Step
from .layers.core import Dense, Dropout, EinsumDense, LayerNormalization, ReversibleEmbedding
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal
from .layers.layer import Layer
from .layers.layout import Layout, Stack


class BloomAttention(Layer):
    layout = Layout(
        attributes={
            "query_dense": "_query_dense",
            "key_dense": "_key_dense",
            "value_dense": "_value_dense",
            "output_dense": "_output_dense",
        },
        built_on_call=True,
    )

    division = Division(
        ("query_dense", "key_dense", "value_dense"),
        ("output_dense",),
        heads=("num_heads",),
        arguments={"bias": 1},
    )

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        heads = (num_heads, hidden_dim // num_heads)
        self.query_dense = EinsumDense("btm,mnh->btnh", hidden_dim, heads, use_bias=True)
        self.key_dense = EinsumDense("bsm,mnh->bsnh", hidden_dim, heads, use_bias=True)
        self.value_dense = EinsumDense("bsm,mnh->bsnh", hidden_dim, heads, use_bias=True)
        self.output_dense = Dense(hidden_dim, hidden_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, bias: torch.Tensor, past: Past | None) -> torch.Tensor:
        q = split_heads(self.query_dense(x), self.num_heads)
        k = split_heads(self.key_dense(x), self.num_heads)
        v = split_heads(self.value_dense(x), self.num_heads)
        if past is not None:
            k, v = past.extend(k, v)
        x = attend(q, k, v, bias, dropout=self.dropout.p if self.training else 0.0)
        return self.dropout(self.output_dense(merge_heads(x)))


class BloomDecoder(Layer):
    layout = Layout(
        attributes={
            "pre_attention_layernorm": "_pre_attention_layernorm",
            "self_attention": "_self_attention_layer",
            "post_attention_layernorm": "_post_attention_layernorm",
            "mlp_intermediate_dense": "_mlp_intermediate_dense",
            "mlp_output_dense": "_mlp_output_dense",
        },
        built_on_call=True,
    )
    division = Division(("mlp_intermediate_dense",), ("mlp_output_dense",))

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        dropout: float,
        layer_norm_epsilon: float,
    ) -> None:
        super().__init__()
        self.pre_attention_layernorm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.self_attention = BloomAttention(hidden_dim, num_heads, dropout)
        self.post_attention_layernorm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.mlp_intermediate_dense = Dense(
            hidden_dim,
            intermediate_dim,
        )
        self.mlp_activation = Activation("gelu_approximate")
        self.mlp_output_dense = Dense(intermediate_dim, hidden_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, bias: torch.Tensor, past: Past | None) -> torch.Tensor:
        x = self.self_attention(self.pre_attention_layernorm(x), bias, past) + x
        y = self.mlp_intermediate_dense(self.post_attention_layernorm(x))
        return self.dropout(self.mlp_output_dense(self.mlp_activation(y))) + x


class BloomBackbone(Backbone):
    """Decoder with linear biases in place of positions, and a norm after the embedding.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: number of attention heads, a divisor of `hidden_dim`.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        dropout: rate on the attention weights and the output of each sublayer.
        layer_norm_epsilon: of the norms.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: `hidden_dim` is no multiple of `num_heads`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-5,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if hidden_dim % num_heads:
            raise ValueError(f"hidden_dim={hidden_dim} is no multiple of num_heads={num_heads}.")
        self.num_heads = num_heads
        self.cache_shapes = [KeyValueShape(num_heads, hidden_dim // num_heads)] * num_layers
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, embeddings_initializer=random_normal(0.02)
        )
        self.embedding_layernorm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                BloomDecoder(hidden_dim, intermediate_dim, num_heads, dropout, layer_norm_epsilon)
                for _ in range(num_layers)
            ),
        )
        self.final_layernorm = LayerNormalization(hidden_dim, layer_norm_epsilon)

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        x = self.embedding_layernorm(self.token_embedding(token_ids))
        step = Step(x, padding_mask, cache, cache_update_index)
        mask = step.full_mask()
        bias = alibi_bias(self.num_heads, step.positions, step.key_positions, mask).to(x.dtype)
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, bias, step.past(i))
        return self.final_layernorm(x)
