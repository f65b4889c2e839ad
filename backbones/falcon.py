"""Falcon (arXiv:2311.16867), the variant of Falcon-RW."""

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
from .layers.layer import Layer
from .layers.layout import Layout, Stack


class FalconAttention(Layer):
    layout = Layout(built_on_call=True)

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
        self.query_dense = EinsumDense("bqm,mnh->bqnh", hidden_dim, heads, use_bias=True)
        self.key_dense = EinsumDense("bkm,mnh->bknh", hidden_dim, heads, use_bias=True)
        self.value_dense = EinsumDense("bkm,mnh->bknh", hidden_dim, heads, use_bias=True)
        self.attention_dropout = Dropout(dropout)
        self.output_dense = Dense(hidden_dim, hidden_dim)

    def forward(self, x: torch.Tensor, bias: torch.Tensor, past: Past | None) -> torch.Tensor:
        q = split_heads(self.query_dense(x), self.num_heads)
        k = split_heads(self.key_dense(x), self.num_heads)
        v = split_heads(self.value_dense(x), self.num_heads)
        if past is not None:
            k, v = past.extend(k, v)
        x = attend(q, k, v, bias, dropout=self.attention_dropout.p if self.training else 0.0)
        return self.output_dense(merge_heads(x))


class FalconTransformerDecoder(Layer):
    layout = Layout(attributes={"attention": "attention_layer"}, built_on_call=True)
    division = Division(("dense_h_to_4h",), ("dense_4h_to_h",))

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_attention_heads: int,
        attention_dropout_rate: float,
        feedforward_dropout_rate: float,
    ) -> None:
        super().__init__()
        self.input_layernorm = LayerNormalization(hidden_dim, 1e-5)
        self.attention = FalconAttention(hidden_dim, num_attention_heads, attention_dropout_rate)
        self.attention_dropout = Dropout(attention_dropout_rate)
        self.post_attention_layernorm = LayerNormalization(hidden_dim, 1e-5)
        self.dense_h_to_4h = Dense(
            hidden_dim,
            intermediate_dim,
        )
        self.activation = Activation("gelu")
        self.dense_4h_to_h = Dense(intermediate_dim, hidden_dim)
        self.feedforward_dropout = Dropout(feedforward_dropout_rate)

    def forward(self, x: torch.Tensor, bias: torch.Tensor, past: Past | None) -> torch.Tensor:
        x = self.attention_dropout(self.attention(self.input_layernorm(x), bias, past)) + x
        y = self.activation(self.dense_h_to_4h(self.post_attention_layernorm(x)))
        y = self.dense_4h_to_h(y)
        return self.feedforward_dropout(y) + x


class FalconBackbone(Backbone):
    """Decoder with linear biases in place of positions.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_attention_heads: number of attention heads, a divisor of `hidden_dim`.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        layer_norm_epsilon: of the last norm; the others have 1e-5, as in KerasHub.
        attention_dropout_rate: rate on the attention weights and the output of attention.
        feedforward_dropout_rate: rate on the output of the feed-forward networks.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: `hidden_dim` is no multiple of `num_attention_heads`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_attention_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        layer_norm_epsilon: float = 1e-5,
        attention_dropout_rate: float = 0,
        feedforward_dropout_rate: float = 0,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if hidden_dim % num_attention_heads:
            raise ValueError(
                f"hidden_dim={hidden_dim} is no multiple of "
                f"num_attention_heads={num_attention_heads}."
            )
        self.num_heads = num_attention_heads
        self.head_dim = hidden_dim // num_attention_heads
        self.cache_shapes = [KeyValueShape(num_attention_heads, self.head_dim)] * num_layers
        self.token_embedding = ReversibleEmbedding(vocabulary_size, hidden_dim)
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                FalconTransformerDecoder(
                    hidden_dim,
                    intermediate_dim,
                    num_attention_heads,
                    attention_dropout_rate,
                    feedforward_dropout_rate,
                )
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
        x = self.token_embedding(token_ids)
        step = Step(x, padding_mask, cache, cache_update_index)
        queries, keys = step.positions, step.key_positions
        if step.visible is not None:  # padding is not counted
            keys = step.visible.cumsum(-1)
            queries = keys.gather(1, queries.expand(x.shape[0], -1))
        mask = step.full_mask()
        # Falcon adds the bias before it scales the scores.
        bias = alibi_bias(self.num_heads, queries, keys, mask) * self.head_dim**-0.5
        bias = bias.to(x.dtype)
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, bias, step.past(i))
        return self.final_layernorm(x)
