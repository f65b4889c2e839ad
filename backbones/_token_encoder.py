"""The encoder that DistilBERT and the RoBERTas have under two names."""

from __future__ import annotations

from typing import ClassVar

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


class TokenEncoder(Backbone):
    """BERT's encoder without segments and pooled output.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.
    """

    # The name of the embeddings, and the epsilon of all norms.
    embeddings_name: ClassVar[str]
    epsilon: ClassVar[float]

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
        self.add_module(
            self.embeddings_name,
            TokenAndPositionEmbedding(vocabulary_size, max_sequence_length, hidden_dim, init),
        )
        self.embeddings_layer_norm = LayerNormalization(hidden_dim, self.epsilon)
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
                    layer_norm_epsilon=self.epsilon,
                    kernel_initializer=init,
                )
                for _ in range(num_layers)
            ),
        )

    @property
    def embed(self) -> TokenAndPositionEmbedding:
        return getattr(self, self.embeddings_name)

    @property
    def token_embedding(self) -> ReversibleEmbedding:
        return self.embed.token_embedding

    def forward(self, token_ids: TokenIds, padding_mask: PaddingMask | None = None) -> torch.Tensor:
        x = self.embeddings_dropout(self.embeddings_layer_norm(self.embed(token_ids)))
        mask = padding_mask_of(padding_mask)
        for layer in self.transformer_layers:
            x = layer(x, mask)
        return x
