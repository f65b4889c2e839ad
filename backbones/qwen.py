"""Qwen2 (arXiv:2407.10671) and Qwen2.5 (arXiv:2412.15115)."""

from __future__ import annotations

import torch

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.cache import KeyValueShape, Step
from .layers.core import ReversibleEmbedding, RMSNormalization
from .layers.decoder import GatedDecoder, GroupedQueryAttention
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal
from .layers.layout import Stack
from .layers.rotary import rotary_frequencies, rotary_tables
from .layers.transformer import head_dim


class QwenLayerNorm(RMSNormalization):
    """The RMS norm under its Keras name."""


class QwenAttention(GroupedQueryAttention):
    """The attention under its Keras name."""


class QwenTransformerDecoder(GatedDecoder):
    """The block under its Keras name."""


class QwenBackbone(Backbone):
    """Llama's decoder with biases in the projections of queries, keys and values.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries. Each has `hidden_dim // num_query_heads`
            dimensions.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        rope_max_wavelength: base of the rotary frequencies.
        rope_scaling_factor: divides the positions.
        layer_norm_epsilon: of the norms.
        dropout: rate on the output of attention, before its projection and after.
        tie_word_embeddings: whether `token_embedding(x, reverse=True)` uses the embedding's own
            matrix, not a second one.
        use_sliding_window_attention: whether there is a window. KerasHub's torch backend drops the
            window, its other backends apply it.
        sliding_window_size: keys that a query sees then, itself included.
        dtype, trainable, name: as in `Model`.
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
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
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
                    QwenAttention(
                        hidden_dim,
                        num_query_heads,
                        num_key_value_heads,
                        self.head_dim,
                        dropout,
                        use_bias=True,
                    ),
                    QwenLayerNorm(hidden_dim, layer_norm_epsilon),
                    QwenLayerNorm(hidden_dim, layer_norm_epsilon),
                    hidden_dim,
                    intermediate_dim,
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
