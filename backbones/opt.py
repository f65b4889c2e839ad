"""OPT (Zhang et al., 2022, arXiv:2205.01068)."""

from __future__ import annotations

import torch

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.cache import KeyValueShape, Step
from .layers.core import LayerNormalization, ReversibleEmbedding, TokenAndPositionEmbedding
from .layers.dtypes import DTypeLike
from .layers.initializers import truncated_normal
from .layers.layout import Stack
from .layers.transformer import TransformerDecoder, head_dim


class OPTBackbone(Backbone):
    """Decoder with absolute positions and norms before the sublayers.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: number of attention heads. Each has `hidden_dim // num_heads` dimensions.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        dropout: rate on the attention weights and the output of each sublayer.
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
        max_sequence_length: int = 2048,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        init = truncated_normal(0.02)
        shape = KeyValueShape(
            num_heads, head_dim(hidden_dim, num_heads), positions=max_sequence_length
        )
        self.cache_shapes = [shape] * num_layers
        self.embeddings = TokenAndPositionEmbedding(
            vocabulary_size, max_sequence_length, hidden_dim, init
        )
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                TransformerDecoder(
                    hidden_dim,
                    intermediate_dim,
                    num_heads,
                    dropout,
                    kernel_initializer=init,
                    normalize_first=True,
                )
                for _ in range(num_layers)
            ),
        )
        self.layer_norm = LayerNormalization(hidden_dim, 1e-5)

    @property
    def token_embedding(self) -> ReversibleEmbedding:
        return self.embeddings.token_embedding

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        step = Step(token_ids, padding_mask, cache, cache_update_index)
        x = self.embeddings(token_ids, step.positions)
        mask = step.mask()
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, mask, step.past(i))
        return self.layer_norm(x)
