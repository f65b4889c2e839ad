"""Mistral 7B (arXiv:2310.06825)."""

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
from .layers.transformer import head_dim as default_head_dim


class MistralLayerNormalization(RMSNormalization):
    """The RMS norm under its Keras name."""


class CachedMistralAttention(GroupedQueryAttention):
    """The attention under its Keras name."""


class MistralTransformerDecoder(GatedDecoder):
    """The block under its Keras name."""


class MistralBackbone(Backbone):
    """Llama's decoder with a sliding window.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        rope_max_wavelength: base of the rotary frequencies.
        rope_scaling_factor: divides the positions.
        layer_norm_epsilon: of the norms.
        sliding_window: keys that a query sees, itself included; `None` for all before it.
        head_dim: dimensions of a head; `None` for `hidden_dim // num_query_heads`.
        dropout: rate on the output of attention, before its projection and after.
        dtype, trainable, name: as in `Model`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_query_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_key_value_heads: int,
        rope_max_wavelength: float = 10000,
        rope_scaling_factor: float = 1.0,
        layer_norm_epsilon: float = 1e-6,
        sliding_window: int | None = 512,
        head_dim: int | None = None,
        dropout: float = 0,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.head_size = head_dim or default_head_dim(hidden_dim, num_query_heads)
        self.rope_max_wavelength = rope_max_wavelength
        self.rope_scaling_factor = rope_scaling_factor
        self.window = sliding_window
        self.cache_shapes = [
            KeyValueShape(num_key_value_heads, self.head_size, self.window)
        ] * num_layers
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, False, random_normal(0.01)
        )
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                MistralTransformerDecoder(
                    CachedMistralAttention(
                        hidden_dim, num_query_heads, num_key_value_heads, self.head_size, dropout
                    ),
                    MistralLayerNormalization(hidden_dim, layer_norm_epsilon),
                    MistralLayerNormalization(hidden_dim, layer_norm_epsilon),
                    hidden_dim,
                    intermediate_dim,
                    dropout,
                )
                for _ in range(num_layers)
            ),
        )
        self.sequence_output_layernorm = MistralLayerNormalization(hidden_dim, layer_norm_epsilon)

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
            self.head_size, self.rope_max_wavelength, x.device, self.rope_scaling_factor
        )
        tables = rotary_tables(step.positions, frequencies, x.dtype)
        mask = step.mask(self.window)
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, mask, tables, step.past(i))
        return self.sequence_output_layernorm(x)
