"""BART (Lewis et al., 2019, arXiv:1910.13461)."""

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
from .layers.cache import CrossKeyValueShape, Step, encoder_decoder_outputs
from .layers.core import Dropout, LayerNormalization, PositionEmbedding, ReversibleEmbedding
from .layers.dtypes import DTypeLike
from .layers.initializers import truncated_normal
from .layers.layout import GRAPH, Graph, Layout, Stack
from .layers.masks import padding_mask_of
from .layers.transformer import TransformerCrossDecoder, TransformerEncoder, head_dim

# The order in which KerasHub assigns its layers.
ASSIGNED = (
    "token_embedding",
    "encoder_position_embedding",
    "encoder_embeddings_layer_norm",
    "encoder_transformer_layers",
    "decoder_position_embedding",
    "decoder_embeddings_layer_norm",
    "decoder_transformer_layers",
)


class BartBackbone(Backbone):
    """Encoder-decoder with absolute positions; both sides share the token embedding.

    `encoder_token_ids`, `encoder_padding_mask` `[batch, encoder_length]`, `decoder_token_ids`,
    `decoder_padding_mask` `[batch, length]` → `encoder_sequence_output` and
    `decoder_sequence_output`, with `hidden_dim` as last axis.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks of the encoder, and of the decoder.
        num_heads: number of attention heads. Each has `hidden_dim // num_heads` dimensions.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        dropout: rate on the embeddings, the attention weights and the output of each sublayer.
        max_sequence_length: rows of the encoder's position table, and of the decoder's: the longest
            input of each.
        dtype, trainable, name: as in `Model`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float = 0.1,
        max_sequence_length: int = 1024,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        init = truncated_normal(0.02)
        block = (hidden_dim, intermediate_dim, num_heads, dropout, "gelu", 1e-5, init)
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, embeddings_initializer=init
        )
        self.encoder_position_embedding = PositionEmbedding(max_sequence_length, hidden_dim, init)
        self.encoder_embeddings_layer_norm = LayerNormalization(hidden_dim, 1e-5)
        self.encoder_embeddings_dropout = Dropout(dropout)
        self.encoder_transformer_layers = Stack(
            "transformer_encoder_layer_{}",
            (TransformerEncoder(*block) for _ in range(num_layers)),
        )
        self.decoder_position_embedding = PositionEmbedding(max_sequence_length, hidden_dim, init)
        self.decoder_embeddings_layer_norm = LayerNormalization(hidden_dim, 1e-5)
        self.decoder_embeddings_dropout = Dropout(dropout)
        self.decoder_transformer_layers = Stack(
            "transformer_decoder_layer_{}",
            (TransformerCrossDecoder(*block) for _ in range(num_layers)),
        )
        shape = CrossKeyValueShape(
            num_heads, head_dim(hidden_dim, num_heads), positions=max_sequence_length
        )
        self.cache_shapes = [shape] * num_layers

    @property
    def layout(self) -> Layout:
        graph = Graph()
        ids, mask = graph("encoder_token_ids"), graph("encoder_padding_mask")
        x = graph("token_embedding", ids)
        x = graph("encoder_embeddings_add", x, graph("encoder_position_embedding", x))
        x = graph("encoder_embeddings_dropout", graph("encoder_embeddings_layer_norm", x))
        for layer in self.encoder_transformer_layers.names():
            x = graph(layer, x, mask)
        encoded = x
        ids, decoder_mask = graph("decoder_token_ids"), graph("decoder_padding_mask")
        x = graph("token_embedding", ids)
        x = graph("decoder_embeddings_add", x, graph("decoder_position_embedding", x))
        x = graph("decoder_embeddings_dropout", graph("decoder_embeddings_layer_norm", x))
        for layer in self.decoder_transformer_layers.names():
            x = graph(layer, decoder_mask, x, mask, encoded)
        return replace(GRAPH, order=graph.order(x, encoded), assigned=ASSIGNED)

    def encode(
        self, token_ids: EncoderTokenIds, padding_mask: EncoderPaddingMask | None
    ) -> torch.Tensor:
        x = self.token_embedding(token_ids)
        x = x + self.encoder_position_embedding(x)
        x = self.encoder_embeddings_dropout(self.encoder_embeddings_layer_norm(x))
        mask = padding_mask_of(padding_mask)
        for layer in self.encoder_transformer_layers:
            x = layer(x, mask)
        return x

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
            encoded = self.encode(encoder_token_ids, encoder_padding_mask)
        step = Step(decoder_token_ids, decoder_padding_mask, cache, cache_update_index)
        encoded_mask = padding_mask_of(step.encoded_mask(encoded, encoder_padding_mask))
        x = self.token_embedding(decoder_token_ids)
        x = x + self.decoder_position_embedding(x, positions=step.positions)
        x = self.decoder_embeddings_dropout(self.decoder_embeddings_layer_norm(x))
        mask = step.mask()
        for i, layer in enumerate(self.decoder_transformer_layers):
            x = layer(x, encoded, mask, encoded_mask, step.past(i), step.cross(i))
        return encoder_decoder_outputs(encoded, x)
