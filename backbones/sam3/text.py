"""SAM 3's text encoder, in the manner of CLIP (arXiv:2103.00020)."""

from __future__ import annotations

import torch

from .._inputs import PaddingMask, TokenIds
from .._model import Component
from ..layers.activations import Activation, ActivationLike
from ..layers.attention import MultiHeadAttention
from ..layers.core import Dense, LayerNormalization, TokenAndPositionEmbedding
from ..layers.dtypes import DTypeLike
from ..layers.layer import Layer
from ..layers.layout import Layout, Stack
from ..layers.masks import Mask, padding_mask_of
from ..layers.transformer import head_dim


class CLIPEncoderLayer(Layer):
    """As CLIP's, of heads that need not divide the width."""

    def __init__(
        self, hidden_dim: int, num_heads: int, intermediate_dim: int, activation: ActivationLike
    ) -> None:
        super().__init__()
        self.layer_norm_1 = LayerNormalization(hidden_dim, 1e-5)
        self.attention = MultiHeadAttention(num_heads, hidden_dim, head_dim(hidden_dim, num_heads))
        self.layer_norm_2 = LayerNormalization(hidden_dim, 1e-5)
        self.dense_1 = Dense(hidden_dim, intermediate_dim)
        self.activation = Activation(activation)
        self.dense_2 = Dense(intermediate_dim, hidden_dim)

    def forward(self, x: torch.Tensor, mask: Mask = None) -> torch.Tensor:
        y = self.layer_norm_1(x)
        x = x + self.attention(y, y, mask)
        return x + self.dense_2(self.activation(self.dense_1(self.layer_norm_2(x))))


class SAM3TextEncoder(Component):
    """Text → a vector for each token, `[batch, length, hidden_dim]`.

    As in KerasHub tokens see each other in both directions; in transformers they see those before
    them.

    Args:
        vocabulary_size: number of token ids.
        embedding_dim: width of the embeddings; it must be `hidden_dim`.
        hidden_dim: width of the hidden states.
        num_layers: number of blocks.
        num_heads: number of attention heads.
        intermediate_dim: width inside the feed-forward networks.
        intermediate_activation: of these.
        max_sequence_length: size of the position table.
        layer_norm_epsilon: of the last norm; those within blocks have 1e-5.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: another `embedding_dim`; text longer than `max_sequence_length`.
    """

    layout = Layout()
    keras_module = "keras_hub.src.models.sam3.sam3_text_encoder"
    hidden_dim: int

    def __init__(
        self,
        vocabulary_size: int,
        embedding_dim: int,
        hidden_dim: int,
        num_layers: int,
        num_heads: int,
        intermediate_dim: int,
        intermediate_activation: ActivationLike = "gelu",
        max_sequence_length: int = 32,
        layer_norm_epsilon: float = 1e-5,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if embedding_dim != hidden_dim:
            raise ValueError(f"embedding_dim={embedding_dim} must be hidden_dim={hidden_dim}.")
        self.embedding = TokenAndPositionEmbedding(
            vocabulary_size, max_sequence_length, embedding_dim
        )
        self.encoder_layers = Stack(
            "encoder_layer_{}",
            (
                CLIPEncoderLayer(hidden_dim, num_heads, intermediate_dim, intermediate_activation)
                for _ in range(num_layers)
            ),
        )
        self.layer_norm = LayerNormalization(hidden_dim, layer_norm_epsilon)

    def forward(self, token_ids: TokenIds, padding_mask: PaddingMask | None = None) -> torch.Tensor:
        x, mask = self.embedding(token_ids), padding_mask_of(padding_mask)
        for layer in self.encoder_layers:
            x = layer(x, mask)
        return self.layer_norm(x)
