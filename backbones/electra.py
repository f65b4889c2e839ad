"""ELECTRA (Clark et al., 2020, arXiv:2003.10555)."""

from __future__ import annotations

import torch

from ._backbone import Backbone
from ._inputs import PaddingMask, TokenIds
from .layers.activations import Activation
from .layers.core import (
    Dense,
    Dropout,
    Embedding,
    LayerNormalization,
    PositionEmbedding,
    ReversibleEmbedding,
)
from .layers.dtypes import DTypeLike
from .layers.initializers import truncated_normal
from .layers.layout import Stack
from .layers.masks import padding_mask_of
from .layers.transformer import TransformerEncoder


class ElectraBackbone(Backbone):
    """BERT's encoder, its embeddings projected where they are of another size.

    `token_ids`, `segment_ids` and `padding_mask` `[batch, length]` →
    `sequence_output` `[batch, length, hidden_dim]`, `pooled_output` `[batch, hidden_dim]`.

    Args:
        vocab_size: number of token ids.
        num_layers: number of blocks.
        num_heads: number of attention heads. Each has `hidden_dim // num_heads` dimensions.
        hidden_dim: width of the hidden states.
        embedding_dim: width of the embeddings, which are projected where it is not `hidden_dim`.
        intermediate_dim: width inside the feed-forward networks.
        dropout: rate on the embeddings, the attention weights and the output of each sublayer.
        max_sequence_length: rows of the position table: the longest input.
        num_segments: number of segment ids.
        dtype, trainable, name: as in `Model`.
    """

    def __init__(
        self,
        vocab_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        embedding_dim: int,
        intermediate_dim: int,
        dropout: float = 0.1,
        max_sequence_length: int = 512,
        num_segments: int = 2,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        init = truncated_normal(0.02)
        self.token_embedding = ReversibleEmbedding(
            vocab_size, embedding_dim, embeddings_initializer=init
        )
        self.position_embedding = PositionEmbedding(max_sequence_length, embedding_dim, init)
        self.segment_embedding = Embedding(num_segments, embedding_dim, init)
        self.embeddings_layer_norm = LayerNormalization(embedding_dim, 1e-12)
        self.embeddings_dropout = Dropout(dropout)
        self.embeddings_projection = (
            Dense(embedding_dim, hidden_dim, kernel_initializer=init)
            if embedding_dim != hidden_dim
            else None
        )
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                TransformerEncoder(
                    hidden_dim,
                    intermediate_dim,
                    num_heads,
                    dropout,
                    activation="gelu_approximate",
                    layer_norm_epsilon=1e-12,
                    kernel_initializer=init,
                )
                for _ in range(num_layers)
            ),
        )
        self.pooled_dense = Dense(hidden_dim, hidden_dim, kernel_initializer=init)
        self.pooled_activation = Activation("tanh")

    def forward(
        self,
        token_ids: TokenIds,
        segment_ids: TokenIds | None = None,
        padding_mask: PaddingMask | None = None,
    ) -> dict[str, torch.Tensor]:
        if segment_ids is None:
            segment_ids = torch.zeros_like(token_ids)
        x = self.token_embedding(token_ids)
        x = x + self.position_embedding(x) + self.segment_embedding(segment_ids)
        x = self.embeddings_dropout(self.embeddings_layer_norm(x))
        if self.embeddings_projection is not None:
            x = self.embeddings_projection(x)
        mask = padding_mask_of(padding_mask)
        for layer in self.transformer_layers:
            x = layer(x, mask)
        return {
            "sequence_output": x,
            "pooled_output": self.pooled_activation(self.pooled_dense(x[:, 0])),
        }
