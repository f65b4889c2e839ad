"""SigLIP's tower of images (arXiv:2303.15343) as Gemma 3 and PaliGemma have it.

Families subclass these for the Keras names of the tower and its parts.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from .activations import gelu_approximate
from .attention import attend, merge_heads, split_heads
from .convolution import Conv2D
from .core import Dense, Embedding, LayerNormalization
from .division import Division
from .layer import Layer
from .layout import Layout, Stack
from .vision import EmbeddedPositionGrid, embed_patches


class SiglipEmbeddings(EmbeddedPositionGrid):
    """Square images → patches, each with its position's vector."""

    layout = Layout(attributes={"embedding_conv": "patch_embedding"})

    def __init__(self, image_size: int, patch_size: int, hidden_dim: int) -> None:
        super().__init__((image_size, image_size), (patch_size, patch_size))
        self.embedding_conv = Conv2D(3, hidden_dim, patch_size, patch_size)
        self.position_embedding = Embedding(self.num_patches, hidden_dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[images, height, width, 3]` → `[images, patches, hidden_dim]`."""
        x = embed_patches(images, self.embedding_conv, "channels_last", self.image_size)
        return self.add_positions(x)


class SiglipAttention(Layer):
    division = Division(
        ("query_proj", "key_proj", "value_proj"), ("out_proj",), heads=("num_heads",)
    )

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_proj = Dense(hidden_dim, hidden_dim)
        self.key_proj = Dense(hidden_dim, hidden_dim)
        self.value_proj = Dense(hidden_dim, hidden_dim)
        self.out_proj = Dense(hidden_dim, hidden_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = split_heads(self.query_proj(x), self.num_heads)
        k = split_heads(self.key_proj(x), self.num_heads)
        v = split_heads(self.value_proj(x), self.num_heads)
        return self.out_proj(merge_heads(attend(q, k, v)))


class SiglipBlock(Layer):
    layout = Layout(attributes={"multi_head_attention": "attn"}, built_on_call=True)
    division = Division(("mlp_dense_1",), ("mlp_dense_2",))

    def __init__(self, attention: SiglipAttention, hidden_dim: int, intermediate_dim: int) -> None:
        super().__init__()
        self.multi_head_attention = attention
        self.layer_norm_1 = LayerNormalization(hidden_dim, 1e-6)
        self.mlp_dense_1 = Dense(hidden_dim, intermediate_dim)
        self.mlp_dense_2 = Dense(intermediate_dim, hidden_dim)
        self.layer_norm_2 = LayerNormalization(hidden_dim, 1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.multi_head_attention(self.layer_norm_1(x))
        y = gelu_approximate(self.mlp_dense_1(self.layer_norm_2(x)))
        return x + self.mlp_dense_2(y)


class SiglipEncoder(Layer):
    """Images → a vector of each patch, `[images, patches, hidden_dim]`."""

    layout = Layout(attributes={"encoder_embeddings": "vision_embeddings"})

    def __init__(
        self, embeddings: SiglipEmbeddings, blocks: Iterable[SiglipBlock], hidden_dim: int
    ) -> None:
        super().__init__()
        self.encoder_layer_norm = LayerNormalization(hidden_dim, 1e-6)
        self.encoder_embeddings = embeddings
        self.resblocks = Stack("encoder_block_{}", blocks, norm="encoder_layer_norm")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.encoder_embeddings(images)
        for block in self.resblocks:
            x = block(x)
        return self.encoder_layer_norm(x)
