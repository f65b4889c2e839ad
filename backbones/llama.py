"""Llama (arXiv:2302.13971) and Llama 2 (arXiv:2307.09288)."""

from __future__ import annotations

from typing import ClassVar

import torch

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.cache import KeyValueShape, Step
from .layers.core import ReversibleEmbedding, RMSNormalization
from .layers.decoder import GatedDecoder, GroupedQueryAttention
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal
from .layers.layout import Stack
from .layers.rotary import llama3_frequencies, rotary_frequencies, rotary_tables
from .layers.transformer import head_dim


class LlamaLayerNorm(RMSNormalization):
    """The RMS norm under its Keras name."""


class LlamaAttention(GroupedQueryAttention):
    """The attention under its Keras name."""


class LlamaTransformerDecoder(GatedDecoder):
    """The block under its Keras name."""


class LlamaBackbone(Backbone):
    """Decoder with rotary positions, RMS norms before the sublayers and a gated feed-forward.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries. Each has `hidden_dim // num_query_heads`
            dimensions.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        rope_max_wavelength: base of the rotary frequencies.
        rope_position_scaling_factor: has no effect, as in KerasHub.
        rope_frequency_adjustment_factor: by how much long wavelengths are stretched, as in Llama
            3.1. It goes together with the next three; `None` stretches none.
        rope_low_freq_factor: a wavelength that goes fewer times than this into the length of
            pretraining is stretched in full.
        rope_high_freq_factor: one that goes more often than this is kept; between the two
            frequencies are interpolated.
        rope_pretraining_sequence_length: length of pretraining, in tokens.
        layer_norm_epsilon: of the norms.
        dropout: rate on the output of attention, before its projection and after.
        tie_word_embeddings: whether `token_embedding(x, reverse=True)` uses the embedding's own
            matrix, not a second one.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: some but not all four arguments of stretching are given.
    """

    unsaved: ClassVar = {"tie_word_embeddings": (False,)}
    obsolete: ClassVar = {"rope_scaling_factor": 1.0}

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_query_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_key_value_heads: int,
        rope_max_wavelength: float = 10000,
        rope_position_scaling_factor: float = 1.0,
        rope_frequency_adjustment_factor: float | None = None,
        rope_low_freq_factor: float | None = None,
        rope_high_freq_factor: float | None = None,
        rope_pretraining_sequence_length: int | None = None,
        layer_norm_epsilon: float = 1e-6,
        dropout: float = 0,
        dtype: DTypeLike = None,
        tie_word_embeddings: bool = False,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.head_dim = head_dim(hidden_dim, num_query_heads)
        self.rope_max_wavelength = rope_max_wavelength
        self.stretching = _stretching(
            rope_frequency_adjustment_factor,
            rope_low_freq_factor,
            rope_high_freq_factor,
            rope_pretraining_sequence_length,
        )
        self.cache_shapes = [KeyValueShape(num_key_value_heads, self.head_dim)] * num_layers
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, tie_word_embeddings, random_normal(0.01)
        )
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                LlamaTransformerDecoder(
                    LlamaAttention(
                        hidden_dim, num_query_heads, num_key_value_heads, self.head_dim, dropout
                    ),
                    LlamaLayerNorm(hidden_dim, layer_norm_epsilon),
                    LlamaLayerNorm(hidden_dim, layer_norm_epsilon),
                    hidden_dim,
                    intermediate_dim,
                    dropout,
                )
                for _ in range(num_layers)
            ),
        )
        self.sequence_output_layernorm = LlamaLayerNorm(hidden_dim, layer_norm_epsilon)

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        x = self.token_embedding(token_ids)
        step = Step(x, padding_mask, cache, cache_update_index)
        frequencies = rotary_frequencies(self.head_dim, self.rope_max_wavelength, x.device)
        if self.stretching is not None:
            frequencies = llama3_frequencies(frequencies, *self.stretching)
        tables = rotary_tables(step.positions, frequencies, x.dtype)
        mask = step.mask()
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, mask, tables, step.past(i))
        return self.sequence_output_layernorm(x)


def _stretching(*factors: float | None) -> tuple[float, ...] | None:
    given = tuple(factor for factor in factors if factor is not None)
    if given and len(given) < len(factors):
        raise ValueError(
            "rope_frequency_adjustment_factor, rope_low_freq_factor, rope_high_freq_factor and "
            "rope_pretraining_sequence_length go together: give all of them or none."
        )
    return given or None
