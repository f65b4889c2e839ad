"""The Vision Transformer (arXiv:2010.11929) as ViT and models around it have it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from .activations import gelu
from .attention import MultiHeadAttention
from .convolution import Conv2D
from .core import Dense, Dropout, Embedding, LayerNormalization
from .division import Division
from .initializers import random_normal
from .layer import Layer
from .layout import Layout, Stack
from .transformer import head_dim
from .vision import EmbeddedPositionGrid, embed_patches


class ViTPatchingAndEmbedding(EmbeddedPositionGrid):
    """Images → patches, each with its position's vector, a class token before them if asked for."""

    compute_dtype: torch.dtype | None = None

    def __init__(
        self,
        image_size: tuple[int, int],
        patch_size: tuple[int, int],
        hidden_dim: int,
        num_channels: int = 3,
        use_class_token: bool = True,
        use_patch_bias: bool = True,
        data_format: str = "channels_last",
    ) -> None:
        super().__init__(image_size, patch_size)
        self.data_format = data_format
        self.kept = int(use_class_token)
        if use_class_token:
            self.class_token = nn.Parameter(torch.empty(1, 1, hidden_dim))
            random_normal(0.05)(self.class_token, 1, 1)
        self.patch_embedding = Conv2D(
            num_channels, hidden_dim, patch_size, patch_size, use_bias=use_patch_bias
        )
        self.position_embedding = Embedding(
            self.kept + self.num_patches, hidden_dim, random_normal(0.02)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[batch, height, width, channels]` → `[batch, positions, hidden_dim]`."""
        x = embed_patches(images, self.patch_embedding, self.data_format, self.image_size)
        if self.kept:
            token = self.class_token.to(x.dtype).expand(x.shape[0], -1, -1)
            x = torch.cat((token, x), dim=1)
        return self.add_positions(x)


class MLP(Layer):
    division = Division(("dense_1",), ("dense_2",))

    def __init__(
        self, hidden_dim: int, mlp_dim: int, use_bias: bool = True, dropout_rate: float = 0.0
    ) -> None:
        super().__init__()
        bias = random_normal(1e-6)
        self.dense_1 = Dense(hidden_dim, mlp_dim, use_bias, bias_initializer=bias)
        self.dense_2 = Dense(mlp_dim, hidden_dim, use_bias, bias_initializer=bias)
        self.dropout = Dropout(dropout_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dropout(gelu(self.dense_1(x)))
        return self.dropout(self.dense_2(x))


class ViTEncoderBlock(Layer):
    layout = Layout(attributes={"ln_1": "layer_norm_1", "ln_2": "layer_norm_2"})

    def __init__(
        self,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        use_mha_bias: bool = True,
        use_mlp_bias: bool = True,
        dropout_rate: float = 0.0,
        attention_dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
    ) -> None:
        super().__init__()
        self.ln_1 = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.mha = MultiHeadAttention(
            num_heads, hidden_dim, head_dim(hidden_dim, num_heads), attention_dropout, use_mha_bias
        )
        self.dropout = Dropout(dropout_rate)
        self.ln_2 = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.mlp = MLP(hidden_dim, mlp_dim, use_mlp_bias, dropout_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.dropout(self.mha(y, y))
        return x + self.mlp(self.ln_2(x))


class ViTEncoder(Layer):
    layout = Layout(attributes={"ln": "layer_norm"})

    def __init__(
        self, blocks: Iterable[nn.Module], norm: LayerNormalization, dropout_rate: float
    ) -> None:
        super().__init__()
        self.encoder_layers = Stack("transformer_block_{}", blocks, start=1)
        self.dropout = Dropout(dropout_rate)
        self.ln = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dropout(x)
        for block in self.encoder_layers:
            x = block(x)
        return self.ln(x)
