"""T5Gemma (arXiv:2504.06225): an encoder and a decoder with the blocks of Gemma 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ._backbone import Backbone
from ._inputs import (
    CacheIndex,
    CacheState,
    EncoderPaddingMask,
    EncoderTokenIds,
    PaddingMask,
    TokenIds,
)
from .layers.attention import ATTENTION
from .layers.cache import Crossing, Past, Step, encoder_decoder_outputs
from .layers.core import Dropout, Embedding, ReversibleEmbedding, UnitRMSNormalization
from .layers.dtypes import DTypeLike
from .layers.gemma import scale_embeddings
from .layers.initializers import random_normal
from .layers.layer import Layer
from .layers.layout import Graph, Kind, Layout, Stack
from .layers.masks import FULL, SLIDING, hiding_bias, padding_bias
from .layers.rotary import Tables, rotary_frequencies, rotary_tables
from .layers.t5_gemma import (
    T5GemmaAttention,
    T5GemmaEncoderLayer,
    T5GemmaMLP,
    check_layers,
    cross_shapes,
    soft_capped,
)


class T5GemmaCrossAttention(T5GemmaAttention):
    """The same from the decoder to the encoder's output, without positions."""

    layout = replace(ATTENTION, class_name="T5GemmaAttention")

    def forward(  # type: ignore[override]
        self,
        x: torch.Tensor,
        encoded: torch.Tensor,
        bias: torch.Tensor,
        crossing: Crossing | None = None,
    ) -> torch.Tensor:
        k, v = (
            self.keys_values(encoded)
            if crossing is None
            else crossing.keys_values(encoded, self.keys_values)
        )
        return self.attend(self.queries(x), k, v, bias)


class T5GemmaDecoderLayer(Layer):
    layout = Layout(
        attributes={
            "self_attention": "self_attn",
            "decoder_pre_self_attention_layernorm": "pre_self_attn_layernorm",
            "decoder_post_self_attention_layernorm": "post_self_attn_layernorm",
            "cross_attention": "cross_attn",
            "decoder_pre_cross_attention_layernorm": "pre_cross_attn_layernorm",
            "decoder_post_cross_attention_layernorm": "post_cross_attn_layernorm",
            "decoder_pre_feedforward_layernorm": "pre_feedforward_layernorm",
            "decoder_post_feedforward_layernorm": "post_feedforward_layernorm",
        },
    )

    def __init__(
        self,
        hidden_dim: int,
        self_attention: T5GemmaAttention,
        cross_attention: T5GemmaCrossAttention,
        mlp: T5GemmaMLP,
        epsilon: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.decoder_pre_self_attention_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.decoder_post_self_attention_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.cross_attention = cross_attention
        self.decoder_pre_cross_attention_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.decoder_post_cross_attention_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.mlp = mlp
        self.decoder_pre_feedforward_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.decoder_post_feedforward_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.decoder_residual_dropout = Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        encoded: torch.Tensor | None,
        bias: torch.Tensor,
        encoded_bias: torch.Tensor,
        tables: Tables,
        past: Past | None = None,
        crossing: Crossing | None = None,
    ) -> torch.Tensor:
        y = self.self_attention(self.decoder_pre_self_attention_layernorm(x), bias, tables, past)
        x = x + self.decoder_residual_dropout(self.decoder_post_self_attention_layernorm(y))
        y = self.decoder_pre_cross_attention_layernorm(x)
        y = self.cross_attention(y, encoded, encoded_bias, crossing)
        x = x + self.decoder_residual_dropout(self.decoder_post_cross_attention_layernorm(y))
        y = self.mlp(self.decoder_pre_feedforward_layernorm(x))
        return x + self.decoder_residual_dropout(self.decoder_post_feedforward_layernorm(y))


# The order in which KerasHub assigns its layers.
ASSIGNED = (
    "token_embedding",
    "decoder_token_embedding",
    "encoder_layers",
    "encoder_norm",
    "decoder_layers",
    "decoder_norm",
)


class T5GemmaBackbone(Backbone):
    """Encoder-decoder whose sides may differ in all their sizes but the vocabulary.

    `encoder_token_ids`, `encoder_padding_mask` `[batch, encoder_length]`, `decoder_token_ids`,
    `decoder_padding_mask` `[batch, length]` → `encoder_sequence_output`
    `[batch, encoder_length, encoder_hidden_dim]` and `decoder_sequence_output`
    `[batch, length, decoder_hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        encoder_hidden_dim: width of the encoder's hidden states.
        encoder_intermediate_dim: width inside its feed-forward networks.
        encoder_num_layers: number of its blocks.
        encoder_num_attention_heads: heads of its queries.
        encoder_num_key_value_heads: heads of its keys and values, a divisor of that.
        encoder_head_dim: dimensions of a head.
        encoder_layer_types: `sliding_attention` or `full_attention` for each block. They have no
            effect, as in KerasHub: the encoder has no windows.
        decoder_hidden_dim: width of the decoder's hidden states.
        decoder_intermediate_dim: width inside its feed-forward networks.
        decoder_num_layers: number of its blocks.
        decoder_num_attention_heads: heads of its queries.
        decoder_num_key_value_heads: heads of its keys and values, a divisor of that.
        decoder_head_dim: dimensions of a head.
        decoder_layer_types: `sliding_attention` or `full_attention` for each block.
        dropout_rate: rate on the embeddings, within the feed-forward networks, on the output of
            each sublayer and of each side.
        rms_norm_eps: of the norms.
        query_pre_attn_scalar: the attention scores are divided by its root.
        attention_bias: whether the projections of attention have biases.
        hidden_activation: of the feed-forward networks, by its Keras name.
        tie_word_embeddings: whether `decoder_token_embedding(x, reverse=True)` uses the embedding's
            own matrix, not a second one.
        initializer_range: standard deviation of the initial embeddings and projections.
        attention_dropout: rate on the attention weights.
        sliding_window: keys before the query that it sees beside itself, in the decoder's
            `sliding_attention`; `None` if there is none.
        cross_attention_hidden_size: has no effect, as in KerasHub; `None` becomes
            `encoder_hidden_dim`.
        attn_logit_softcapping: bound on the attention scores, by tanh; `None` for none.
        final_logit_softcapping: bound on the logits that `generate` sees, by tanh.
        rope_max_wavelength: base of the rotary frequencies.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: the layer types are fewer than the layers, or unknown, or there is no
            `sliding_window` for them.
    """

    keras_module = "keras_hub.src.models.t5gemma.t5gemma_backbone"

    def __init__(
        self,
        vocabulary_size: int,
        encoder_hidden_dim: int,
        encoder_intermediate_dim: int,
        encoder_num_layers: int,
        encoder_num_attention_heads: int,
        encoder_num_key_value_heads: int,
        encoder_head_dim: int,
        encoder_layer_types: Sequence[str],
        decoder_hidden_dim: int,
        decoder_intermediate_dim: int,
        decoder_num_layers: int,
        decoder_num_attention_heads: int,
        decoder_num_key_value_heads: int,
        decoder_head_dim: int,
        decoder_layer_types: Sequence[str],
        dropout_rate: float = 0.0,
        rms_norm_eps: float = 1e-6,
        query_pre_attn_scalar: float = 1.0,
        attention_bias: bool = False,
        hidden_activation: str = "gelu_approximate",
        tie_word_embeddings: bool = True,
        initializer_range: float = 0.02,
        attention_dropout: float = 0.0,
        sliding_window: int | None = None,
        cross_attention_hidden_size: int | None = None,
        attn_logit_softcapping: float | None = None,
        final_logit_softcapping: float | None = None,
        rope_max_wavelength: float = 10000.0,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.cross_attention_hidden_size = cross_attention_hidden_size or encoder_hidden_dim
        check_layers(encoder_layer_types, encoder_num_layers, sliding_window)
        check_layers(decoder_layer_types, decoder_num_layers, sliding_window)
        self.encoder_head_dim = encoder_head_dim
        self.decoder_head_dim = decoder_head_dim
        self.decoder_layer_types = decoder_layer_types
        self.final_logit_softcapping = final_logit_softcapping
        self.rope_max_wavelength = rope_max_wavelength
        init = random_normal(initializer_range)

        attention: dict[str, Any] = {
            "query_pre_attn_scalar": query_pre_attn_scalar,
            "use_bias": attention_bias,
            "initializer_range": initializer_range,
            "dropout": attention_dropout,
            "logit_soft_cap": attn_logit_softcapping,
        }
        encoder_heads = (encoder_num_attention_heads, encoder_num_key_value_heads, encoder_head_dim)
        decoder_heads = (decoder_num_attention_heads, decoder_num_key_value_heads, decoder_head_dim)
        mlp = (hidden_activation, dropout_rate, initializer_range)

        self.encoder_token_embedding = Embedding(vocabulary_size, encoder_hidden_dim, init)
        self.encoder_dropout = Dropout(dropout_rate)
        self.encoder_layers = Stack(
            "encoder_layer_{}",
            (
                T5GemmaEncoderLayer(
                    encoder_hidden_dim,
                    T5GemmaAttention(
                        encoder_hidden_dim, encoder_hidden_dim, *encoder_heads, **attention
                    ),
                    T5GemmaMLP(encoder_hidden_dim, encoder_intermediate_dim, *mlp),
                    rms_norm_eps,
                    dropout_rate,
                )
                for _ in range(encoder_num_layers)
            ),
        )
        self.encoder_norm = UnitRMSNormalization(encoder_hidden_dim, rms_norm_eps)
        self.decoder_token_embedding = ReversibleEmbedding(
            vocabulary_size, decoder_hidden_dim, tie_word_embeddings, init
        )
        self.decoder_dropout = Dropout(dropout_rate)
        self.decoder_layers = Stack(
            "decoder_layer_{}",
            (
                T5GemmaDecoderLayer(
                    decoder_hidden_dim,
                    T5GemmaAttention(
                        decoder_hidden_dim, decoder_hidden_dim, *decoder_heads, **attention
                    ),
                    T5GemmaCrossAttention(
                        decoder_hidden_dim, encoder_hidden_dim, *decoder_heads, **attention
                    ),
                    T5GemmaMLP(decoder_hidden_dim, decoder_intermediate_dim, *mlp),
                    rms_norm_eps,
                    dropout_rate,
                )
                for _ in range(decoder_num_layers)
            ),
        )
        self.decoder_norm = UnitRMSNormalization(decoder_hidden_dim, rms_norm_eps)
        self.window = None if sliding_window is None else sliding_window + 1
        self.cache_shapes = cross_shapes(
            decoder_layer_types[:decoder_num_layers],
            decoder_num_key_value_heads,
            decoder_head_dim,
            self.window,
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.decoder_token_embedding(hidden, reverse=True)
        return soft_capped(logits, self.final_logit_softcapping)

    if not TYPE_CHECKING:

        @property
        def token_embedding(self) -> Embedding:
            """The encoder's."""
            return self.encoder_token_embedding

    @property
    def layout(self) -> Layout:
        graph = Graph()
        ids, mask = graph("encoder_token_ids"), graph("encoder_padding_mask")
        x = graph("multiply", graph("encoder_token_embedding", ids))
        x = graph("encoder_dropout", x)
        for layer in self.encoder_layers.names():
            x = graph(layer, x, mask)
        encoded = graph("encoder_dropout", graph("encoder_norm", x))
        ids, decoder_mask = graph("decoder_token_ids"), graph("decoder_padding_mask")
        x = graph("multiply_3", graph("decoder_token_embedding", ids))
        x = graph("decoder_dropout", x)
        for layer in self.decoder_layers.names():
            x = graph(layer, x, encoded, mask, decoder_mask)
        decoded = graph("decoder_dropout", graph("decoder_norm", x))
        return Layout(
            Kind.GRAPH,
            attributes={"encoder_token_embedding": "token_embedding"},
            unnamed=("encoder_norm", "decoder_norm"),
            order=graph.order(decoded, encoded),
            assigned=ASSIGNED,
        )

    def encode(self, token_ids: EncoderTokenIds, padding_mask: EncoderPaddingMask) -> torch.Tensor:
        x = self.encoder_dropout(scale_embeddings(self.encoder_token_embedding(token_ids)))
        bias = padding_bias(padding_mask)
        tables = self.rotary_tables(x.shape[1], x, self.encoder_head_dim)
        for layer in self.encoder_layers:
            x = layer(x, bias, tables)
        return self.encoder_dropout(self.encoder_norm(x))

    def forward(
        self,
        encoder_token_ids: EncoderTokenIds,
        decoder_token_ids: TokenIds,
        encoder_padding_mask: EncoderPaddingMask | None = None,
        decoder_padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> dict[str, torch.Tensor]:
        encoded = None  # where an earlier call has seen the encoder's inputs
        if encoder_token_ids is not None:
            if encoder_padding_mask is None:
                encoder_padding_mask = torch.ones_like(encoder_token_ids)
            encoded = self.encode(encoder_token_ids, encoder_padding_mask)
        step = Step(decoder_token_ids, decoder_padding_mask, cache, cache_update_index)
        encoded_mask = step.encoded_mask(encoded, encoder_padding_mask)
        assert encoded_mask is not None
        encoded_bias = padding_bias(encoded_mask)
        x = scale_embeddings(self.decoder_token_embedding(decoder_token_ids))
        x = self.decoder_dropout(x)
        biases = {FULL: hiding_bias(step.full_mask())}
        if self.window is not None:
            biases[SLIDING] = hiding_bias(step.full_mask(self.window))
        tables = self.rotary_tables(step.positions, x, self.decoder_head_dim)
        for i, (layer, kind) in enumerate(zip(self.decoder_layers, self.decoder_layer_types)):
            x = layer(x, encoded, biases[kind], encoded_bias, tables, step.past(i), step.cross(i))
        decoded = self.decoder_dropout(self.decoder_norm(x))
        return encoder_decoder_outputs(encoded, decoded)

    def rotary_tables(self, positions: int | torch.Tensor, x: torch.Tensor, dim: int) -> Tables:
        frequencies = rotary_frequencies(dim, self.rope_max_wavelength, x.device)
        return rotary_tables(positions, frequencies, x.dtype)
