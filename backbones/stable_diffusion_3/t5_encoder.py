"""The encoder of T5 1.1 (arXiv:1910.10683) as Stable Diffusion 3 reads with it."""

from __future__ import annotations

import torch

from .._backbone import Backbone
from .._inputs import PaddingMask, TokenIds
from ..layers.activations import ActivationLike
from ..layers.core import Dropout, ReversibleEmbedding
from ..layers.dtypes import DTypeLike
from ..layers.initializers import truncated_normal
from ..layers.layout import Stack
from ..layers.masks import padding_bias
from ..layers.t5 import T5LayerNorm, T5TransformerLayer


class T5Encoder(Backbone):
    """Encoder with relative positions.

    `token_ids`, `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: number of attention heads.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        key_value_dim: dimensions of a head; `None` for `hidden_dim // num_heads`.
        dropout: rate on the embeddings, the attention weights, within the feed-forward networks, on
            the output of each sublayer and at the end.
        activation: of the feed-forward networks, by its Keras name.
        use_gated_activation: whether the feed-forward networks are gated.
        layer_norm_epsilon: of the norms.
        tie_embedding_weights: whether `token_embedding(x, reverse=True)` uses the embedding's own
            matrix, not a second one.
        dtype, trainable, name: as in `Model`.
    """

    keras_module = "keras_hub.src.models.stable_diffusion_3.t5_encoder"
    registered_name = "T5Encoder"
    hidden_dim: int

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        key_value_dim: int | None = None,
        dropout: float = 0.1,
        activation: ActivationLike = "relu",
        use_gated_activation: bool = True,
        layer_norm_epsilon: float = 1e-6,
        tie_embedding_weights: bool = True,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=tie_embedding_weights,
            # KerasHub passes T5's deviation of 1.0 as the mean.
            embeddings_initializer=truncated_normal(0.05, mean=1.0),
        )
        self.encoder_embedding_dropout = Dropout(dropout)
        self.encoder_transformer_layers = Stack(
            "transformer_encoder_layer_{}",
            (
                T5TransformerLayer(
                    hidden_dim,
                    intermediate_dim,
                    key_value_dim or hidden_dim // num_heads,
                    dropout,
                    activation,
                    layer_norm_epsilon,
                    num_heads,
                    use_gated_activation,
                    is_decoder=False,
                    use_relative_attention_bias=i == 0,
                )
                for i in range(num_layers)
            ),
        )
        self.encoder_output_layer_norm = T5LayerNorm(hidden_dim, layer_norm_epsilon)
        self.encoder_output_dropout = Dropout(dropout)

    def forward(self, token_ids: TokenIds, padding_mask: PaddingMask | None = None) -> torch.Tensor:
        x = self.encoder_embedding_dropout(self.token_embedding(token_ids))
        positions = torch.arange(x.shape[1], device=x.device)
        distance = (positions - positions[:, None])[None]
        bias = padding_bias(torch.ones_like(token_ids) if padding_mask is None else padding_mask)
        for layer in self.encoder_transformer_layers:
            x, bias = layer(x, bias, distance)
        return self.encoder_output_dropout(self.encoder_output_layer_norm(x))
