"""ALBERT (Lan et al., 2019, arXiv:1909.11942)."""

from __future__ import annotations

from typing import cast

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


class AlbertBackbone(Backbone):
    """Encoder whose layers share weights: `num_groups` groups of `num_inner_repetitions` layers.

    Each group runs `num_layers / num_groups` times in a row before the next one.

    `token_ids`, `segment_ids` and `padding_mask` `[batch, length]` →
    `sequence_output` `[batch, length, hidden_dim]`, `pooled_output` `[batch, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of times that a group runs, over all groups.
        num_heads: number of attention heads. Each has `hidden_dim // num_heads` dimensions.
        embedding_dim: width of the embeddings, which are projected to `hidden_dim`.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        num_groups: number of groups, each with weights of its own; it divides `num_layers`.
        num_inner_repetitions: blocks in a group.
        dropout: rate on the embeddings, the attention weights and the output of each sublayer.
        max_sequence_length: rows of the position table: the longest input.
        num_segments: number of segment ids.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: `num_layers` is no multiple of `num_groups`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        embedding_dim: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_groups: int = 1,
        num_inner_repetitions: int = 1,
        dropout: float = 0.0,
        max_sequence_length: int = 512,
        num_segments: int = 2,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if num_layers % num_groups:
            raise ValueError(
                f"num_layers={num_layers} is not a multiple of num_groups={num_groups}."
            )
        self.repeats = num_layers // num_groups
        init = truncated_normal(0.02)
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, embedding_dim, embeddings_initializer=init
        )
        self.position_embedding = PositionEmbedding(max_sequence_length, embedding_dim, init)
        self.segment_embedding = Embedding(num_segments, embedding_dim, init)
        self.embeddings_layer_norm = LayerNormalization(embedding_dim, 1e-12)
        self.embeddings_dropout = Dropout(dropout)
        self.embedding_projection = Dense(embedding_dim, hidden_dim, kernel_initializer=init)

        def encoder() -> TransformerEncoder:
            return TransformerEncoder(
                hidden_dim,
                intermediate_dim,
                num_heads,
                dropout,
                activation="gelu_approximate",
                layer_norm_epsilon=1e-12,
                kernel_initializer=init,
            )

        self.transformer_layers = Stack(
            "group_{}",
            (
                Stack(
                    f"group_{i}_inner_layer_{{}}",
                    (encoder() for _ in range(num_inner_repetitions)),
                    repeats=self.repeats,
                )
                for i in range(num_groups)
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
        x = self.embedding_projection(self.embeddings_dropout(self.embeddings_layer_norm(x)))
        mask = padding_mask_of(padding_mask)
        for group in self.transformer_layers:
            for _ in range(self.repeats):
                for layer in cast(Stack, group):
                    x = layer(x, mask)
        return {
            "sequence_output": x,
            "pooled_output": self.pooled_activation(self.pooled_dense(x[:, 0])),
        }
