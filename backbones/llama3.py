"""Llama 3 (arXiv:2407.21783)."""

from __future__ import annotations

from .llama import LlamaBackbone


class Llama3Backbone(LlamaBackbone):
    """Llama's decoder, with another vocabulary and other rotary settings in its presets.

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
