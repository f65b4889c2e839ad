"""T5 (Raffel et al., 2019, arXiv:1910.10683) and T5 1.1, Flan-T5."""

from __future__ import annotations

from dataclasses import replace

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
from .layers.activations import ActivationLike
from .layers.cache import CrossKeyValueShape, Step, encoder_decoder_outputs
from .layers.core import Dropout, ReversibleEmbedding
from .layers.dtypes import DTypeLike
from .layers.initializers import truncated_normal
from .layers.layout import GRAPH, Graph, Layout, Stack
from .layers.masks import hiding_bias, padding_bias
from .layers.t5 import T5LayerNorm, T5TransformerLayer


class T5Backbone(Backbone):
    """Encoder-decoder with relative positions; both sides share the token embedding.

    `encoder_token_ids`, `encoder_padding_mask` `[batch, encoder_length]`, `decoder_token_ids`,
    `decoder_padding_mask` `[batch, length]` → `encoder_sequence_output` and
    `decoder_sequence_output`, with `hidden_dim` as last axis.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks of the encoder, and of the decoder.
        num_heads: number of attention heads.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        key_value_dim: dimensions of a head; `None` for `hidden_dim // num_heads`.
        dropout: rate on the embeddings, the attention weights, within the feed-forward networks, on
            the output of each sublayer and of each side.
        activation: of the feed-forward networks, by its Keras name.
        use_gated_activation: whether the feed-forward networks are gated.
        layer_norm_epsilon: of the norms.
        tie_embedding_weights: whether `token_embedding(x, reverse=True)` uses the embedding's own
            matrix, not a second one.
        dtype, trainable, name: as in `Model`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        key_value_dim: int | None = None,
        dropout: float = 0.1,
        activation: ActivationLike = "relu",
        use_gated_activation: bool = True,
        layer_norm_epsilon: float = 1e-6,
        tie_embedding_weights: bool = True,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)

        def layers(name: str, is_decoder: bool) -> Stack:
            return Stack(
                name,
                (
                    T5TransformerLayer(
                        hidden_dim,
                        intermediate_dim,
                        key_value_dim or hidden_dim // num_heads,
                        dropout,
                        activation,
                        layer_norm_epsilon,
                        num_heads,
                        use_gated_activation,
                        is_decoder,
                        use_relative_attention_bias=i == 0,
                    )
                    for i in range(num_layers)
                ),
            )

        self.token_embedding = ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=tie_embedding_weights,
            # KerasHub passes T5's deviation of 1.0 as the mean.
            embeddings_initializer=truncated_normal(0.05, mean=1.0),
        )
        self.encoder_embedding_dropout = Dropout(dropout)
        self.encoder_transformer_layers = layers("transformer_encoder_layer_{}", False)
        self.encoder_output_layer_norm = T5LayerNorm(hidden_dim, layer_norm_epsilon)
        self.decoder_embedding_dropout = Dropout(dropout)
        self.encoder_output_dropout = Dropout(dropout)
        self.decoder_transformer_layers = layers("transformer_decoder_layer_{}", True)
        self.decoder_output_layer_norm = T5LayerNorm(hidden_dim, layer_norm_epsilon)
        self.decoder_output_dropout = Dropout(dropout)
        self.logit_scale = hidden_dim**-0.5 if tie_embedding_weights else 1.0
        shape = CrossKeyValueShape(num_heads, key_value_dim or hidden_dim // num_heads)
        self.cache_shapes = [shape] * num_layers

    @property
    def layout(self) -> Layout:
        graph = Graph()
        encoded = graph("token_embedding", graph("encoder_token_ids"))
        for name in (*self.encoder_transformer_layers.names(), "encoder_output_layer_norm"):
            encoded = graph(name, encoded)
        x = graph("token_embedding", graph("decoder_token_ids"))
        for name in self.decoder_transformer_layers.names():
            x = graph(name, x, encoded)
        x = graph("decoder_output_layer_norm", x)
        return replace(GRAPH, order=graph.order(x, encoded))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.token_embedding(hidden * self.logit_scale, reverse=True)

    def encode(self, token_ids: EncoderTokenIds, padding_mask: EncoderPaddingMask) -> torch.Tensor:
        x = self.encoder_embedding_dropout(self.token_embedding(token_ids))
        positions = torch.arange(x.shape[1], device=x.device)
        distance = (positions - positions[:, None])[None]
        bias = padding_bias(padding_mask)
        for layer in self.encoder_transformer_layers:
            x, bias = layer(x, bias, distance)
        return self.encoder_output_dropout(self.encoder_output_layer_norm(x))

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
        encoder_bias = padding_bias(encoded_mask)
        x = self.decoder_embedding_dropout(self.token_embedding(decoder_token_ids))
        distance = step.key_positions[:, None] - step.positions[:, :, None]
        bias = hiding_bias(step.full_mask())
        for i, layer in enumerate(self.decoder_transformer_layers):
            x, bias = layer(x, bias, distance, encoded, encoder_bias, step.past(i), step.cross(i))
        decoded = self.decoder_output_dropout(self.decoder_output_layer_norm(x))
        return encoder_decoder_outputs(encoded, decoded)
