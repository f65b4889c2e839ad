"""DeBERTa V3 (He et al., 2020, arXiv:2006.03654; 2021, arXiv:2111.09543)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import PaddingMask, TokenIds
from .layers.activations import Activation
from .layers.attention import DIVISION, PRIVATE_ATTENTION, attend, merge_heads, split_heads
from .layers.core import Dense, Dropout, EinsumDense, LayerNormalization, ReversibleEmbedding
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.initializers import truncated_normal
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.masks import padding_mask_of


class RelativeEmbedding(Layer):
    """A vector for each bucket of distances, normalized: `[2 · bucket_size, hidden_dim]`."""

    layout = Layout(attributes={"rel_embeddings_layer_norm": "layer_norm"})

    def __init__(self, hidden_dim: int, bucket_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2 * bucket_size, hidden_dim))
        truncated_normal(0.02)(self.weight, 2 * bucket_size, hidden_dim)
        self.rel_embeddings_layer_norm = LayerNormalization(hidden_dim, 1e-7)

    def forward(self) -> torch.Tensor:
        return self.rel_embeddings_layer_norm(self.weight)


def relative_buckets(
    length: int, bucket_size: int, max_length: int, device: torch.device
) -> torch.Tensor:
    """Row of the relative embeddings for each query and key, `[length, length]`.

    Distances are exact up to half a `bucket_size` and logarithmic up to `max_length`.
    """
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions
    middle = bucket_size // 2
    size = distance.abs().clamp(min=max(1, middle - 1)).float()
    # In this order of operations the values rounded up are KerasHub's.
    ratio = torch.log(size / middle) * (middle - 1)
    ratio = ratio / torch.log(torch.tensor(max_length - 1.0, device=device) / middle)
    far = (torch.ceil(ratio).to(distance.dtype) + middle) * distance.sign()
    bucket = torch.where(distance.abs() <= middle, distance, far)
    return (bucket + bucket_size).clamp(0, 2 * bucket_size - 1)


class DisentangledSelfAttention(Layer):
    """Attention by content to content, content to position and position to content."""

    layout = PRIVATE_ATTENTION
    division = replace(DIVISION, heads=("num_heads",))

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        head_dim = hidden_dim // num_heads
        self.scale = 1 / math.sqrt(3 * head_dim)
        init = truncated_normal(0.02)

        def project() -> EinsumDense:
            heads = (num_heads, head_dim)
            return EinsumDense("abc,cde->abde", hidden_dim, heads, True, init)

        self.query = project()
        self.key = project()
        self.value = project()
        self.position_dropout = Dropout(dropout)
        self.attention_output = EinsumDense("abc,cd->abd", hidden_dim, hidden_dim, True, init)

    def forward(
        self,
        x: torch.Tensor,
        rel_embeddings: torch.Tensor,
        buckets: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        q = split_heads(self.query(x), self.num_heads)
        k = split_heads(self.key(x), self.num_heads)
        v = split_heads(self.value(x), self.num_heads)
        positions = self.position_dropout(rel_embeddings)[None]
        position_q = split_heads(self.query(positions), self.num_heads)
        position_k = split_heads(self.key(positions), self.num_heads)
        index = buckets.expand(*q.shape[:2], -1, -1)
        content_to_position = (q @ position_k.mT).gather(-1, index)
        position_to_content = (k @ position_q.mT).gather(-1, index.mT).mT
        bias = (content_to_position + position_to_content) * self.scale
        if mask is not None:
            bias = bias.masked_fill(~mask, -torch.inf)
        dropout = self.dropout if self.training else 0.0
        x = attend(q, k, v, bias, scale=self.scale, dropout=dropout)
        return self.attention_output(merge_heads(x))


class DisentangledAttentionEncoder(Layer):
    layout = Layout(
        attributes={
            "self_attention_layer": "_self_attention_layer",
            "self_attention_layer_norm": "_self_attention_layer_norm",
            "feedforward_layer_norm": "_feedforward_layer_norm",
            "feedforward_intermediate_dense": "_feedforward_intermediate_dense",
            "feedforward_output_dense": "_feedforward_output_dense",
        },
        built_on_call=True,
    )
    division = Division(("feedforward_intermediate_dense",), ("feedforward_output_dense",))

    def __init__(
        self, hidden_dim: int, intermediate_dim: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        init = truncated_normal(0.02)
        self.self_attention_layer = DisentangledSelfAttention(hidden_dim, num_heads, dropout)
        self.self_attention_layer_norm = LayerNormalization(hidden_dim, 1e-7)
        self.self_attention_dropout = Dropout(dropout)
        self.feedforward_layer_norm = LayerNormalization(hidden_dim, 1e-7)
        self.feedforward_intermediate_dense = Dense(
            hidden_dim, intermediate_dim, kernel_initializer=init
        )
        self.feedforward_activation = Activation("gelu")
        self.feedforward_output_dense = Dense(intermediate_dim, hidden_dim, kernel_initializer=init)
        self.feedforward_dropout = Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        rel_embeddings: torch.Tensor,
        buckets: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        y = self.self_attention_layer(x, rel_embeddings, buckets, mask)
        x = self.self_attention_layer_norm(x + self.self_attention_dropout(y))
        y = self.feedforward_activation(self.feedforward_intermediate_dense(x))
        y = self.feedforward_output_dense(y)
        return self.feedforward_layer_norm(x + self.feedforward_dropout(y))


class DebertaV3Backbone(Backbone):
    """Encoder with disentangled attention.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: number of attention heads. Each has `hidden_dim // num_heads` dimensions.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        dropout: rate on the embeddings, the relative ones, the attention weights and the output of
            each sublayer.
        max_sequence_length: distance in tokens from which on the buckets do not change; inputs may
            be longer.
        bucket_size: buckets of distances to either side: exact up to half of them, logarithmic
            beyond.
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
        bucket_size: int = 256,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.bucket_size = bucket_size
        self.max_sequence_length = max_sequence_length
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, embeddings_initializer=truncated_normal(0.02)
        )
        self.embeddings_layer_norm = LayerNormalization(hidden_dim, 1e-7)
        self.embeddings_dropout = Dropout(dropout)
        self.rel_embedding = RelativeEmbedding(hidden_dim, bucket_size)
        self.transformer_layers = Stack(
            "disentangled_attention_encoder_layer_{}",
            (
                DisentangledAttentionEncoder(hidden_dim, intermediate_dim, num_heads, dropout)
                for _ in range(num_layers)
            ),
        )

    def forward(self, token_ids: TokenIds, padding_mask: PaddingMask | None = None) -> torch.Tensor:
        x = self.embeddings_dropout(self.embeddings_layer_norm(self.token_embedding(token_ids)))
        rel_embeddings = self.rel_embedding()
        buckets = relative_buckets(x.shape[1], self.bucket_size, self.max_sequence_length, x.device)
        mask = padding_mask_of(padding_mask)
        for layer in self.transformer_layers:
            x = layer(x, rel_embeddings, buckets, mask)
        return x
