"""RoBERTa (Liu et al., 2019, arXiv:1907.11692)."""

from __future__ import annotations

import torch

from ._backbone import Backbone
from ._inputs import PaddingMask, TokenIds
from .layers.core import (
    Dropout,
    LayerNormalization,
    ReversibleEmbedding,
    TokenAndPositionEmbedding,
)
from .layers.dtypes import DTypeLike
from .layers.initializers import truncated_normal
from .layers.layout import Stack
from .layers.masks import padding_mask_of
from .layers.transformer import TransformerEncoder


class RobertaBackbone(Backbone):
    """Encoder with absolute positions, counted from 0.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: number of attention heads. Each has `hidden_dim // num_heads` dimensions.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        dropout: rate on the embeddings, the attention weights and the output of each sublayer.
        max_sequence_length: rows of the position table: the longest input.
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
        max_sequence_length: int = 512,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        init = truncated_normal(0.02)
        self.embeddings = TokenAndPositionEmbedding(
            vocabulary_size, max_sequence_length, hidden_dim, init
        )
        self.embeddings_layer_norm = LayerNormalization(hidden_dim, 1e-5)
        self.embeddings_dropout = Dropout(dropout)
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                TransformerEncoder(
                    hidden_dim,
                    intermediate_dim,
                    num_heads,
                    dropout,
                    activation="gelu",
                    layer_norm_epsilon=1e-5,
                    kernel_initializer=init,
                )
                for _ in range(num_layers)
            ),
        )

    @property
    def token_embedding(self) -> ReversibleEmbedding:
        return self.embeddings.token_embedding

    def forward(self, token_ids: TokenIds, padding_mask: PaddingMask | None = None) -> torch.Tensor:
        x = self.embeddings_dropout(self.embeddings_layer_norm(self.embeddings(token_ids)))
        mask = padding_mask_of(padding_mask)
        for layer in self.transformer_layers:
            x = layer(x, mask)
        return x
