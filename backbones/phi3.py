"""Phi-3 (arXiv:2404.14219)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.attention import ATTENTION
from .layers.cache import KeyValueShape, Past, Step
from .layers.core import Dropout, ReversibleEmbedding, RMSNormalization
from .layers.decoder import GatedProjections, GroupedQueryAttention
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal
from .layers.layout import Layout, Stack
from .layers.masks import Mask
from .layers.rotary import (
    Tables,
    longrope_frequencies,
    longrope_magnitude,
    rotary_frequencies,
    rotary_tables,
)
from .layers.transformer import head_dim


class Phi3LayerNorm(RMSNormalization):
    """The RMS norm under its Keras name."""


class Phi3Attention(GroupedQueryAttention):
    layout = ATTENTION


class Phi3Decoder(GatedProjections):
    layout = Layout(built_on_call=True)

    def __init__(
        self,
        attention: Phi3Attention,
        hidden_dim: int,
        intermediate_dim: int,
        layer_norm_epsilon: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.pre_attention_layernorm = Phi3LayerNorm(hidden_dim, layer_norm_epsilon)
        self.attention = attention
        self.post_attention_layernorm = Phi3LayerNorm(hidden_dim, layer_norm_epsilon)
        self.add_projections(hidden_dim, intermediate_dim, random_normal(0.02))
        self.attention_dropout = Dropout(dropout)
        self.feedforward_dropout = Dropout(dropout)

    def forward(
        self, x: torch.Tensor, mask: Mask, tables: Tables, past: Past | None
    ) -> torch.Tensor:
        residual = x
        x = self.attention(self.pre_attention_layernorm(x), mask, tables, past)
        x = residual = self.attention_dropout(x) + residual
        x = self.feed_forward(self.post_attention_layernorm(x))
        return self.feedforward_dropout(x) + residual


class Phi3Backbone(Backbone):
    """Llama's decoder with rotary frequencies for short and for long inputs.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        num_query_heads: number of heads of the queries. Each has `hidden_dim // num_query_heads`
            dimensions.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        layer_norm_epsilon: of the norms.
        dropout: rate on the output of attention, before its projection and after, and of the
            feed-forward networks.
        max_sequence_length: tokens that the model is made for: with `rope_scaling_type`, queries
            and keys grow with its ratio to `pretraining_sequence_length`. It is no limit.
        pretraining_sequence_length: tokens up to which the short factors hold.
        rope_max_wavelength: base of the rotary frequencies.
        rope_scaling_type: `su` (LongRoPE, arXiv:2402.13753), or `None`: then the factors and both
            lengths have no effect.
        rope_scaling_short_factor: divisors of the frequencies, one for each pair of a head's
            dimensions.
        rope_scaling_long_factor: the same beyond `pretraining_sequence_length`.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: another `rope_scaling_type`, or factors that are missing or of a wrong length.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        layer_norm_epsilon: float = 1e-6,
        dropout: float = 0.0,
        max_sequence_length: int = 4096,
        pretraining_sequence_length: int = 4096,
        rope_max_wavelength: float = 10000,
        rope_scaling_type: str | None = None,
        rope_scaling_short_factor: Sequence[float] | None = None,
        rope_scaling_long_factor: Sequence[float] | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.head_dim = head_dim(hidden_dim, num_query_heads)
        self.rope_max_wavelength = rope_max_wavelength
        self.pretraining_length = pretraining_sequence_length
        self.factors: tuple[Sequence[float], Sequence[float]] | None = None
        # The rotated queries and keys grow with the length that the model is made for.
        self.rope_magnitude = 1.0
        if rope_scaling_type is not None:
            if rope_scaling_type != "su":
                raise ValueError(
                    f'rope_scaling_type must be "su" or None, not {rope_scaling_type!r}.'
                )
            short, long = rope_scaling_short_factor, rope_scaling_long_factor
            if not short or not long or not len(short) == len(long) == self.head_dim // 2:
                raise ValueError(
                    "rope_scaling_short_factor and rope_scaling_long_factor must have "
                    f"{self.head_dim // 2} numbers each, half the dimensions of a head."
                )
            self.factors = short, long
            self.rope_magnitude = longrope_magnitude(
                max_sequence_length, pretraining_sequence_length
            )
        self.cache_shapes = [KeyValueShape(num_key_value_heads, self.head_dim)] * num_layers
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, False, random_normal(0.01)
        )
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                Phi3Decoder(
                    Phi3Attention(
                        hidden_dim,
                        num_query_heads,
                        num_key_value_heads,
                        self.head_dim,
                        dropout,
                    ),
                    hidden_dim,
                    intermediate_dim,
                    layer_norm_epsilon,
                    dropout,
                )
                for _ in range(num_layers)
            ),
        )
        self.sequence_output_layernorm = Phi3LayerNorm(hidden_dim, layer_norm_epsilon)

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
        if self.factors is not None:
            reached = step.positions
            if step.cache is not None and step.padding_mask is not None:
                # A row goes on behind its own end.
                reached = reached.masked_fill(~step.padding_mask, 0)
            frequencies = longrope_frequencies(
                frequencies, reached, *self.factors, self.pretraining_length
            )
        tables = rotary_tables(step.positions, frequencies, x.dtype, self.rope_magnitude)
        mask = step.mask()
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, mask, tables, step.past(i))
        return self.sequence_output_layernorm(x)
