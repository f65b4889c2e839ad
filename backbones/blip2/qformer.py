"""The Q-Former of BLIP-2 (arXiv:2301.12597)."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import nn

from .._inputs import Input
from .._model import Component
from ..layers.activations import gelu
from ..layers.attention import MultiHeadAttention
from ..layers.core import Dense, Dropout, LayerNormalization
from ..layers.division import Division
from ..layers.dtypes import DTypeLike
from ..layers.layer import Layer
from ..layers.layout import Stack
from ..layers.transformer import head_dim

VisionFeatures = Annotated[torch.Tensor, Input("values", ("batch", "patches", "vision_dim"))]


class QFormerAttention(Layer):
    """Attention, the sum with its queries, a norm."""

    def __init__(
        self, num_heads: int, hidden_dim: int, kv_dim: int, epsilon: float, dropout: float
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(
            num_heads, hidden_dim, head_dim(hidden_dim, num_heads), context_dim=kv_dim
        )
        self.layer_norm = LayerNormalization(hidden_dim, epsilon)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return self.layer_norm(x + self.dropout(self.attention(x, context)))


class QFormerLayer(Layer):
    division = Division(("intermediate_dense",), ("output_dense",))

    def __init__(
        self,
        has_cross_attention: bool,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        vision_dim: int,
        epsilon: float,
        dropout: float,
    ) -> None:
        super().__init__()

        def attention(kv_dim: int) -> QFormerAttention:
            return QFormerAttention(num_heads, hidden_dim, kv_dim, epsilon, dropout)

        self.self_attention = attention(hidden_dim)
        self.cross_attention = attention(vision_dim) if has_cross_attention else None
        self.intermediate_dense = Dense(hidden_dim, intermediate_dim)
        self.output_dense = Dense(intermediate_dim, hidden_dim)
        self.output_layer_norm = LayerNormalization(hidden_dim, epsilon)
        self.output_dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, vision_features: torch.Tensor) -> torch.Tensor:
        x = self.self_attention(x, x)
        if self.cross_attention is not None:
            x = self.cross_attention(x, vision_features)
        y = self.output_dense(gelu(self.intermediate_dense(x)))
        return self.output_layer_norm(x + self.output_dropout(y))


class BLIP2QueryTokens(Layer):
    """Learned vectors, the same for each row."""

    compute_dtype: torch.dtype | None = None

    def __init__(self, num_query_tokens: int, hidden_dim: int) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, num_query_tokens, hidden_dim))

    def forward(self, vision_features: torch.Tensor) -> torch.Tensor:
        tokens = self.query_tokens.to(self.compute_dtype or self.query_tokens.dtype)
        return tokens.expand(vision_features.shape[0], -1, -1)


class BLIP2QFormer(Component):
    """Learned queries that look at an image, and leave with what is in it.

    `vision_features` `[batch, patches, vision_dim]` → `[batch, num_query_tokens, hidden_dim]`.

    Args:
        num_query_tokens: number of queries.
        num_layers: number of blocks.
        num_heads: number of attention heads. Each has `hidden_dim // num_heads` dimensions.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        vision_dim: width of the image's features.
        cross_attention_frequency: every how many blocks, from the first one on, one looks at the
            image.
        dropout: rate on the queries and the output of each sublayer.
        layer_norm_epsilon: of the norms.
        dtype, trainable, name: as in `Model`.
    """

    keras_module = "keras_hub.src.models.blip2.blip2_qformer"

    def __init__(
        self,
        num_query_tokens: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        vision_dim: int,
        cross_attention_frequency: int,
        dropout: float,
        layer_norm_epsilon: float,
        name: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.query_tokens_layer = BLIP2QueryTokens(num_query_tokens, hidden_dim)
        self.layer_norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.dropout_layer = Dropout(dropout)
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                QFormerLayer(
                    i % cross_attention_frequency == 0,
                    num_heads,
                    hidden_dim,
                    intermediate_dim,
                    vision_dim,
                    layer_norm_epsilon,
                    dropout,
                )
                for i in range(num_layers)
            ),
        )

    @property
    def query_tokens(self) -> nn.Parameter:
        return self.query_tokens_layer.query_tokens

    def forward(self, vision_features: VisionFeatures) -> torch.Tensor:
        x = self.query_tokens_layer(vision_features)
        x = self.dropout_layer(self.layer_norm(x))
        for layer in self.transformer_layers:
            x = layer(x, vision_features)
        return x
