"""PARSeq (arXiv:2207.06966)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import Images, PaddingMask, TokenIds
from .layers.attention import CachedMultiHeadAttention
from .layers.core import Dense, Dropout, Embedding, LayerNormalization
from .layers.dtypes import DTypeLike
from .layers.initializers import glorot_uniform
from .layers.layer import Layer
from .layers.layout import GRAPH, Layout, Stack
from .layers.masks import Mask, decoder_mask
from .layers.transformer import head_dim
from .layers.vit import MLP

EPSILON = 1e-5


class PARSeqDecoderBlock(Layer):
    """Two streams through one set of weights: positions query the characters before them, and
    these see themselves.
    """

    layout = Layout(attributes={"ln_1": "layer_norm_1", "ln_2": "layer_norm_2"}, built_on_call=True)

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        mlp_dim: int,
        dropout_rate: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        attention = (num_heads, hidden_dim, head_dim(hidden_dim, num_heads), attention_dropout)
        self.query_layer_norm = LayerNormalization(hidden_dim, EPSILON)
        self.content_layer_norm = LayerNormalization(hidden_dim, EPSILON)
        self.self_attention = CachedMultiHeadAttention(*attention)
        self.cross_attention = CachedMultiHeadAttention(*attention)
        self.ln_1 = LayerNormalization(hidden_dim, EPSILON)
        self.ln_2 = LayerNormalization(hidden_dim, EPSILON)
        self.mlp = MLP(hidden_dim, mlp_dim, dropout_rate=dropout_rate)
        self.dropout = Dropout(dropout_rate)

    def forward(
        self,
        query: torch.Tensor,
        content: torch.Tensor,
        memory: torch.Tensor,
        mask: Mask,
        last: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both streams `[batch, length, dim]`, of which the last block needs the queries alone."""
        seen = self.content_layer_norm(content)
        query = self.stream(query, self.query_layer_norm(query), seen, memory, mask)
        if not last:
            content = self.stream(content, seen, seen, memory, mask)
        return query, content

    def stream(
        self,
        x: torch.Tensor,
        normed: torch.Tensor,
        seen: torch.Tensor,
        memory: torch.Tensor,
        mask: Mask,
    ) -> torch.Tensor:
        x = x + self.dropout(self.self_attention(normed, seen, mask))
        x = x + self.dropout(self.cross_attention(self.ln_1(x), memory))
        return x + self.mlp(self.ln_2(x))


class PARSeqDecoder(Layer):
    compute_dtype: torch.dtype | None = None
    layout = Layout(built_on_call=True)

    def __init__(
        self,
        vocabulary_size: int,
        max_label_length: int,
        num_layers: int,
        hidden_dim: int,
        mlp_dim: int,
        num_heads: int,
        dropout_rate: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.scale = hidden_dim**0.5
        self.token_embedding = Embedding(vocabulary_size, hidden_dim)
        self.pos_query_embeddings = nn.Parameter(torch.empty(1, max_label_length + 1, hidden_dim))
        glorot_uniform(self.pos_query_embeddings, max_label_length + 1, hidden_dim)
        self.dropout = Dropout(dropout_rate)
        self.decoder_layers = Stack(
            "decoder_layer_{}",
            (
                PARSeqDecoderBlock(hidden_dim, num_heads, mlp_dim, dropout_rate, attention_dropout)
                for _ in range(num_layers)
            ),
        )
        self.layer_norm = LayerNormalization(hidden_dim, EPSILON)

    def forward(
        self,
        token_ids: torch.Tensor,
        memory: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`[batch, length]`, and what the image's encoder gave → `[batch, length, dim]`."""
        length = token_ids.shape[1]
        if length > self.pos_query_embeddings.shape[1]:
            raise ValueError(
                f"The labels have {length} tokens, but max_label_length and the one that begins "
                f"them make {self.pos_query_embeddings.shape[1]}."
            )
        x = self.token_embedding(token_ids) * self.scale
        positions = self.pos_query_embeddings[:, :length].to(x.dtype)
        # The token that begins has no position; the first character has the first one.
        content = torch.cat((x[:, :1], x[:, 1:] + positions[:, :-1]), dim=1)
        content = self.dropout(content)
        query = self.dropout(positions.expand(x.shape[0], -1, -1))
        mask = decoder_mask(padding_mask, length, x.device)
        for i, block in enumerate(self.decoder_layers, start=1):
            last = i == len(self.decoder_layers)
            query, content = block(query, content, memory, mask, last)
        return self.layer_norm(query)


class PARSeqBackbone(Backbone):
    """Recognition of text in images: a Vision Transformer, and a decoder that reads its patches.

    `images` `[batch, height, width, channels]`, `token_ids`, `padding_mask` `[batch, length]` →
    logits `[batch, length, vocabulary_size - 2]` of the character after each token.

    Args:
        image_encoder: the model of images, with an output `[batch, positions, dim]`, where `dim` is
            `decoder_hidden_dim`.
        vocabulary_size: number of token ids. The last two, which begin and fill labels, have no
            logits.
        max_label_length: characters of the longest label; the decoder takes one token more.
        decoder_hidden_dim: width of the decoder's hidden states.
        num_decoder_layers: number of the decoder's blocks.
        num_decoder_heads: number of its attention heads.
        decoder_mlp_dim: width inside its feed-forward networks.
        dropout_rate: of the decoder's hidden states, in training mode.
        attention_dropout: of its attention probabilities, in training mode.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an encoder of another width; labels that are too long.
    """

    resampled: ClassVar = ("image_shape",)

    def __init__(
        self,
        image_encoder: Backbone,
        vocabulary_size: int,
        max_label_length: int,
        decoder_hidden_dim: int,
        num_decoder_layers: int,
        num_decoder_heads: int,
        decoder_mlp_dim: int,
        dropout_rate: float = 0.1,
        attention_dropout: float = 0.1,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        width: Any = getattr(image_encoder, "hidden_dim", decoder_hidden_dim)
        if width != decoder_hidden_dim:
            raise ValueError(
                f"decoder_hidden_dim={decoder_hidden_dim} must be the image_encoder's hidden_dim, "
                f"{width}."
            )
        self.image_encoder = image_encoder
        self.decoder = PARSeqDecoder(
            vocabulary_size,
            max_label_length,
            num_decoder_layers,
            decoder_hidden_dim,
            decoder_mlp_dim,
            num_decoder_heads,
            dropout_rate,
            attention_dropout,
        )
        self.head = Dense(decoder_hidden_dim, vocabulary_size - 2)

    @property
    def layout(self) -> Layout:
        return replace(GRAPH, unnamed=("head",))

    @property
    def token_embedding(self) -> Embedding:
        return self.decoder.token_embedding

    def forward(
        self, images: Images, token_ids: TokenIds, padding_mask: PaddingMask | None = None
    ) -> torch.Tensor:
        return self.head(self.decoder(token_ids, self.image_encoder(images), padding_mask))
