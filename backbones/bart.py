"""BART (Lewis et al., 2019, arXiv:1910.13461)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .backbone import Backbone, BackboneOptions
from .inputs import EncoderPaddingMask, EncoderTokenIds, PaddingMask, TokenIds
from .layers.attention import decoder_mask, padding_mask_of
from .layers.core import Dropout, LayerNormalization, PositionEmbedding, ReversibleEmbedding
from .layers.dtypes import DTypeLike
from .layers.initializers import truncated_normal
from .layers.layout import Layout, Stack
from .layers.transformer import TransformerCrossDecoder, TransformerEncoder

if TYPE_CHECKING:
    from typing_extensions import Unpack


class BartBackbone(Backbone):
    """Encoder-decoder with absolute positions; both sides share the token embedding.

    `encoder_token_ids`, `encoder_padding_mask` `[batch, encoder_length]`, `decoder_token_ids`,
    `decoder_padding_mask` `[batch, length]` → `encoder_sequence_output` and
    `decoder_sequence_output`, with `hidden_dim` as last axis.
    """

    # The order in which KerasHub assigns its layers; the inputs have no attribute.
    assigned_layers = (
        "",
        "token_embedding",
        "encoder_position_embedding",
        "encoder_embeddings_add",
        "encoder_embeddings_layer_norm",
        "encoder_embeddings_dropout",
        "encoder_transformer_layers",
        "decoder_position_embedding",
        "decoder_embeddings_add",
        "decoder_embeddings_layer_norm",
        "decoder_embeddings_dropout",
        "decoder_transformer_layers",
    )

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
        **options: Unpack[BackboneOptions],
    ) -> None:
        super().__init__(dtype, **options)
        self.layout = _layout(num_layers)  # type: ignore[misc]
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

    def forward(
        self,
        encoder_token_ids: EncoderTokenIds,
        decoder_token_ids: TokenIds,
        encoder_padding_mask: EncoderPaddingMask | None = None,
        decoder_padding_mask: PaddingMask | None = None,
    ) -> dict[str, torch.Tensor]:
        x = self.token_embedding(encoder_token_ids)
        x = x + self.encoder_position_embedding(x)
        x = self.encoder_embeddings_dropout(self.encoder_embeddings_layer_norm(x))
        encoded_mask = padding_mask_of(encoder_padding_mask)
        for layer in self.encoder_transformer_layers:
            x = layer(x, encoded_mask)
        encoded = x

        x = self.token_embedding(decoder_token_ids)
        x = x + self.decoder_position_embedding(x)
        x = self.decoder_embeddings_dropout(self.decoder_embeddings_layer_norm(x))
        mask = decoder_mask(decoder_padding_mask, x.shape[1], x.device)
        for layer in self.decoder_transformer_layers:
            x = layer(x, encoded, mask, encoded_mask)
        return {"encoder_sequence_output": encoded, "decoder_sequence_output": x}


def _layout(num_layers: int) -> Layout:
    """Keras sorts the layers by their distance from the last one, and of two at the same distance
    takes the decoder's first: the decoder's embeddings come between the encoder's layers.
    """
    n = num_layers
    distances = {f"transformer_decoder_layer_{i}": n - 1 - i for i in range(n)}
    distances |= {
        "decoder_embeddings_dropout": n,
        "decoder_embeddings_layer_norm": n + 1,
        "decoder_embeddings_add": n + 2,
        "decoder_position_embedding": n + 3,
    }
    distances |= {f"transformer_encoder_layer_{i}": 2 * n - 1 - i for i in range(n)}
    distances |= {
        "encoder_embeddings_dropout": 2 * n,
        "encoder_embeddings_layer_norm": 2 * n + 1,
        "encoder_embeddings_add": 2 * n + 2,
        "encoder_position_embedding": 2 * n + 3,
        "token_embedding": 2 * n + 4,
    }
    return Layout(
        weightless={"encoder_embeddings_add": "Add", "decoder_embeddings_add": "Add"},
        inputs=(
            "decoder_token_ids",
            "encoder_token_ids",
            "encoder_padding_mask",
            "decoder_padding_mask",
        ),
        order=sorted(distances, key=lambda name: -distances[name]),
    )
