"""What CLIP (arXiv:2103.00020) and the models after it share."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from .activations import Activation, ActivationLike
from .attention import MultiHeadAttention
from .convolution import Conv2D
from .core import Dense, Embedding, LayerNormalization
from .division import Division
from .initializers import random_normal
from .layer import Layer
from .masks import Mask
from .vision import EmbeddedPositionGrid, embed_patches

EPSILON = 1e-5


class CLIPEmbedding(EmbeddedPositionGrid):
    """Images → a class token and the patches, each with its position's vector."""

    kept = 1

    def __init__(
        self,
        hidden_dim: int,
        patch_size: tuple[int, int],
        image_size: tuple[int, int],
        num_channels: int,
        data_format: str,
    ) -> None:
        super().__init__(image_size, patch_size)
        self.data_format = data_format
        self.class_embedding = nn.Parameter(torch.empty(hidden_dim))
        random_normal(0.05)(self.class_embedding, hidden_dim, hidden_dim)
        self.patch_embedding = Conv2D(
            num_channels, hidden_dim, patch_size, patch_size, use_bias=False
        )
        self.position_embedding = Embedding(1 + self.num_patches, hidden_dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[batch, height, width, channels]` → `[batch, 1 + patches, hidden_dim]`."""
        x = embed_patches(images, self.patch_embedding, self.data_format, self.image_size)
        token = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        return self.add_positions(torch.cat((token, x), dim=1))


class CLIPEncoderLayer(Layer):
    division = Division(("dense_1",), ("dense_2",))

    def __init__(
        self, hidden_dim: int, num_heads: int, intermediate_dim: int, activation: ActivationLike
    ) -> None:
        super().__init__()
        head_dim = even_head_dim(hidden_dim, num_heads)
        self.layer_norm_1 = LayerNormalization(hidden_dim, EPSILON)
        self.attention = MultiHeadAttention(num_heads, hidden_dim, head_dim)
        self.layer_norm_2 = LayerNormalization(hidden_dim, EPSILON)
        self.dense_1 = Dense(hidden_dim, intermediate_dim)
        self.activation = Activation(activation)
        self.dense_2 = Dense(intermediate_dim, hidden_dim)

    def forward(self, x: torch.Tensor, mask: Mask = None) -> torch.Tensor:
        y = self.layer_norm_1(x)
        x = x + self.attention(y, y, mask)
        return x + self.dense_2(self.activation(self.dense_1(self.layer_norm_2(x))))


class CLIPHead(Layer):
    """Cosines of all pairs, times a learned factor, whose logarithm is the weight."""

    keras_shapes: ClassVar = {"logit_scale": ()}

    def __init__(self) -> None:
        super().__init__()
        # Of one dimension, since FSDP cannot shard a scalar.
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))

    def forward(self, vision: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """`[images, dim]` and `[texts, dim]` → `[texts, images]`."""
        x = cosines(text, vision)
        return x * self.logit_scale.float().exp().to(x.dtype)


def cosines(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of all pairs of vectors: `[n, dim]`, `[m, dim]` → `[n, m]`; of zeros they are zero."""
    x, y = (F.normalize(one.float(), dim=-1).to(one.dtype) for one in (x, y))
    return x @ y.mT


def even_head_dim(hidden_dim: int, num_heads: int) -> int:
    """Size of one head, where heads divide the width.

    Raises:
        ValueError: they do not.
    """
    if num_heads < 1 or hidden_dim % num_heads:
        raise ValueError(f"hidden_dim={hidden_dim} is not divisible by num_heads={num_heads}.")
    return hidden_dim // num_heads
