"""Whisper (Radford et al., 2022, arXiv:2212.04356)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch.nn import functional as F

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, Input, PaddingMask, TokenIds
from .layers.attention import CachedMultiHeadAttention
from .layers.cache import CrossKeyValueShape, Step, encoder_decoder_outputs
from .layers.convolution import Conv1D
from .layers.core import (
    Dropout,
    LayerNormalization,
    PositionEmbedding,
    ReversibleEmbedding,
    TokenAndPositionEmbedding,
)
from .layers.dtypes import DTypeLike
from .layers.initializers import truncated_normal
from .layers.layout import GRAPH, Graph, Layout, Stack
from .layers.transformer import TransformerCrossDecoder, TransformerEncoder, head_dim

EncoderFeatures = Annotated[
    torch.Tensor, Input("values", ("batch", "encoder_length", "mels"), remembered=True)
]
initializer = truncated_normal(0.02)
# The order in which KerasHub assigns its layers.
ASSIGNED = (
    "encoder_token_embedding_conv_layer_1",
    "encoder_token_embedding_conv_layer_2",
    "encoder_position_embedding",
    "encoder_transformer_layers",
    "encoder_layer_norm",
    "decoder_token_and_position_embedding",
    "decoder_transformer_layers",
    "decoder_layer_norm",
)


class WhisperCachedMultiHeadAttention(CachedMultiHeadAttention):
    """Attention whose keys have no bias."""

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float) -> None:
        key_dim = head_dim(hidden_dim, num_heads)
        super().__init__(num_heads, hidden_dim, key_dim, dropout, kernel_initializer=initializer)
        self.key.register_parameter("bias", None)


class WhisperEncoder(TransformerEncoder):
    def __init__(
        self, hidden_dim: int, intermediate_dim: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__(
            hidden_dim,
            intermediate_dim,
            num_heads,
            dropout,
            "gelu",
            kernel_initializer=initializer,
            normalize_first=True,
        )
        self.self_attention_layer = WhisperCachedMultiHeadAttention(hidden_dim, num_heads, dropout)


class WhisperDecoder(TransformerCrossDecoder):
    layout = replace(TransformerCrossDecoder.layout, class_name="WhisperDecoder")

    def __init__(
        self, hidden_dim: int, intermediate_dim: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__(
            hidden_dim,
            intermediate_dim,
            num_heads,
            dropout,
            "gelu",
            kernel_initializer=initializer,
            normalize_first=True,
        )
        self.self_attention = WhisperCachedMultiHeadAttention(hidden_dim, num_heads, dropout)
        self.cross_attention = WhisperCachedMultiHeadAttention(hidden_dim, num_heads, dropout)


class FixedPositions(PositionEmbedding):
    """A table that is stored (sinusoids, in all presets) but not trained."""

    layout = Layout(class_name="PositionEmbedding")

    def __init__(self, sequence_length: int, feature_dim: int) -> None:
        super().__init__(sequence_length, feature_dim, initializer)
        table = self.weight.detach()
        del self.weight
        self.register_buffer("weight", table)


class WhisperBackbone(Backbone):
    """Encoder of log-mel spectrograms, and a decoder with absolute positions.

    `encoder_features` `[batch, encoder_length, num_mels]`, `decoder_token_ids`,
    `decoder_padding_mask` `[batch, length]` → `encoder_sequence_output`
    `[batch, ceil(encoder_length / 2), hidden_dim]` and `decoder_sequence_output`
    `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks of the encoder, and of the decoder.
        num_heads: number of attention heads. Each has `hidden_dim // num_heads` dimensions.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        num_mels: channels of the spectrogram.
        dropout: rate on the embeddings, the attention weights and the output of each sublayer.
        max_encoder_sequence_length: frames of the longest spectrogram; the position table has half
            as many rows.
        max_decoder_sequence_length: rows of the decoder's position table: the longest input.
        dtype, trainable, name: as in `Model`.
    """

    num_mels: int
    max_encoder_sequence_length: int
    max_decoder_sequence_length: int

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_mels: int = 80,
        dropout: float = 0.0,
        max_encoder_sequence_length: int = 3000,
        max_decoder_sequence_length: int = 448,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        block = (hidden_dim, intermediate_dim, num_heads, dropout)
        self.encoder_token_embedding_conv_layer_1 = Conv1D(num_mels, hidden_dim, 3, padding=1)
        self.encoder_token_embedding_conv_layer_2 = Conv1D(
            hidden_dim, hidden_dim, 3, strides=2, padding=1
        )
        self.encoder_position_embedding = FixedPositions(
            max_encoder_sequence_length // 2, hidden_dim
        )
        self.encoder_embeddings_dropout = Dropout(dropout)
        self.encoder_transformer_layers = Stack(
            "transformer_encoder_layer_{}", (WhisperEncoder(*block) for _ in range(num_layers))
        )
        self.encoder_layer_norm = LayerNormalization(hidden_dim, 1e-5)
        self.decoder_token_and_position_embedding = TokenAndPositionEmbedding(
            vocabulary_size, max_decoder_sequence_length, hidden_dim, initializer
        )
        self.decoder_embeddings_dropout = Dropout(dropout)
        self.decoder_transformer_layers = Stack(
            "transformer_decoder_layer_{}", (WhisperDecoder(*block) for _ in range(num_layers))
        )
        self.decoder_layer_norm = LayerNormalization(hidden_dim, 1e-5)
        shape = CrossKeyValueShape(
            num_heads, head_dim(hidden_dim, num_heads), positions=max_decoder_sequence_length
        )
        self.cache_shapes = [shape] * num_layers

    @property
    def token_embedding(self) -> ReversibleEmbedding:
        return self.decoder_token_and_position_embedding.token_embedding

    @property
    def layout(self) -> Layout:
        graph = Graph()
        x = graph("encoder_token_embedding_conv_layer_1", graph("encoder_features"))
        x = graph("encoder_padder", graph("gelu_1", x))
        x = graph("gelu_2", graph("encoder_token_embedding_conv_layer_2", x))
        x = graph("encoder_embeddings_add", x, graph("encoder_position_embedding", x))
        x = graph("encoder_embeddings_dropout", x)
        for layer in self.encoder_transformer_layers.names():
            x = graph(layer, x)
        encoded = graph("encoder_layer_norm", x)
        ids, mask = graph("decoder_token_ids"), graph("decoder_padding_mask")
        x = graph("decoder_token_and_position_embedding", ids)
        x = graph("decoder_embeddings_dropout", x)
        for layer in self.decoder_transformer_layers.names():
            x = graph(layer, mask, x, encoded)
        decoded = graph("decoder_layer_norm", x)
        return replace(GRAPH, order=graph.order(decoded, encoded), assigned=ASSIGNED)

    def longest(self, given: Mapping[str, Any]) -> dict[str, int]:
        return {
            "encoder_features": self.max_encoder_sequence_length // 2 * 2,
            "decoder_token_ids": self.max_decoder_sequence_length,
        }

    def encode(self, features: EncoderFeatures) -> torch.Tensor:
        if features.shape[2] != self.num_mels:
            raise ValueError(
                f"encoder_features must have num_mels={self.num_mels} numbers a frame, not "
                f"{features.shape[2]}."
            )
        x = F.gelu(self.encoder_token_embedding_conv_layer_1(features.mT))
        x = F.gelu(self.encoder_token_embedding_conv_layer_2(x)).mT
        x = self.encoder_embeddings_dropout(x + self.encoder_position_embedding(x))
        for layer in self.encoder_transformer_layers:
            x = layer(x)
        return self.encoder_layer_norm(x)

    def forward(
        self,
        encoder_features: EncoderFeatures,
        decoder_token_ids: TokenIds,
        decoder_padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> dict[str, torch.Tensor]:
        # `None` where an earlier call has seen the features.
        encoded = None if encoder_features is None else self.encode(encoder_features)
        step = Step(decoder_token_ids, decoder_padding_mask, cache, cache_update_index)
        x = self.decoder_token_and_position_embedding(decoder_token_ids, step.positions)
        x = self.decoder_embeddings_dropout(x)
        mask = step.mask()
        for i, layer in enumerate(self.decoder_transformer_layers):
            x = layer(x, encoded, mask, None, step.past(i), step.cross(i))
        return encoder_decoder_outputs(encoded, self.decoder_layer_norm(x))
