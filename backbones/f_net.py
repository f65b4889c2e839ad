"""FNet (Lee-Thorp et al., 2021, arXiv:2105.03824)."""

from __future__ import annotations

import torch

from ._backbone import Backbone
from ._inputs import TokenIds
from .layers.activations import Activation
from .layers.core import (
    Dense,
    Dropout,
    Embedding,
    LayerNormalization,
    PositionEmbedding,
    ReversibleEmbedding,
)
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal
from .layers.layer import Layer
from .layers.layout import Layout, Stack


class FNetEncoder(Layer):
    """A Fourier transform in attention's place, and a feed-forward network."""

    layout = Layout(
        attributes={
            "mixing_layer_norm": "_mixing_layer_norm",
            "output_layer_norm": "_output_layer_norm",
            "intermediate_dense": "_intermediate_dense",
            "output_dense": "_output_dense",
        },
    )
    division = Division(("intermediate_dense",), ("output_dense",))

    def __init__(self, hidden_dim: int, intermediate_dim: int, dropout: float) -> None:
        super().__init__()
        init = random_normal(0.02)
        self.mixing_layer_norm = LayerNormalization(hidden_dim, 1e-12)
        self.output_layer_norm = LayerNormalization(hidden_dim, 1e-12)
        self.intermediate_dense = Dense(hidden_dim, intermediate_dim, True, init, init)
        self.activation = Activation("gelu_approximate")
        self.output_dense = Dense(intermediate_dim, hidden_dim, True, init, init)
        self.output_dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Over length and hidden dimension; most devices transform no narrower type than float32.
        mixed = torch.fft.fft2(x.float()).real.to(x.dtype)
        x = self.mixing_layer_norm(x + mixed)
        y = self.output_dropout(self.output_dense(self.activation(self.intermediate_dense(x))))
        return self.output_layer_norm(x + y)


class FNetBackbone(Backbone):
    """Encoder without attention. It has no mask: padding is mixed in with the rest.

    `token_ids` and `segment_ids` `[batch, length]` →
    `sequence_output` `[batch, length, hidden_dim]`, `pooled_output` `[batch, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        dropout: rate on the embeddings and the output of the feed-forward networks.
        max_sequence_length: rows of the position table: the longest input.
        num_segments: number of segment ids.
        dtype, trainable, name: as in `Model`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float = 0.1,
        max_sequence_length: int = 512,
        num_segments: int = 4,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        init = random_normal(0.02)
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, embeddings_initializer=init
        )
        self.position_embedding = PositionEmbedding(max_sequence_length, hidden_dim, init)
        self.segment_embedding = Embedding(num_segments, hidden_dim, init)
        self.embeddings_layer_norm = LayerNormalization(hidden_dim, 1e-12)
        self.embedding_projection = Dense(hidden_dim, hidden_dim, True, init, init)
        self.embeddings_dropout = Dropout(dropout)
        self.transformer_layers = Stack(
            "f_net_layer_{}",
            (FNetEncoder(hidden_dim, intermediate_dim, dropout) for _ in range(num_layers)),
        )
        self.pooled_dense = Dense(hidden_dim, hidden_dim, True, init, init)
        self.pooled_activation = Activation("tanh")

    def forward(
        self, token_ids: TokenIds, segment_ids: TokenIds | None = None
    ) -> dict[str, torch.Tensor]:
        if segment_ids is None:
            segment_ids = torch.zeros_like(token_ids)
        x = self.token_embedding(token_ids)
        x = x + self.position_embedding(x) + self.segment_embedding(segment_ids)
        x = self.embeddings_dropout(self.embedding_projection(self.embeddings_layer_norm(x)))
        for layer in self.transformer_layers:
            x = layer(x)
        return {
            "sequence_output": x,
            "pooled_output": self.pooled_activation(self.pooled_dense(x[:, 0])),
        }
