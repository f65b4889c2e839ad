"""DeiT (arXiv:2012.12877): a ViT with a second token, for distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import Images
from .layers.activations import gelu
from .layers.attention import MultiHeadAttention
from .layers.convolution import Conv2D, check_data_format, pair
from .layers.core import Dense, Dropout, LayerNormalization
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal
from .layers.layer import Layer
from .layers.layout import Layout
from .layers.transformer import head_dim
from .layers.vision import PositionGrid, embed_patches, image_channels, image_size
from .layers.vit import ViTEncoder


class DeiTEmbeddings(PositionGrid):
    """Class token, distillation token and patches, each with its position's vector."""

    compute_dtype: torch.dtype | None = None

    def __init__(
        self,
        image_size: tuple[int, int],
        patch_size: tuple[int, int],
        hidden_dim: int,
        num_channels: int,
        data_format: str,
    ) -> None:
        super().__init__(image_size, patch_size)
        self.data_format = data_format
        self.class_token = nn.Parameter(torch.zeros(1, 1, hidden_dim))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, hidden_dim))
        self.position_embedding = nn.Parameter(torch.empty(1, 2 + self.num_patches, hidden_dim))
        random_normal(0.02)(self.position_embedding, 1, 1)
        self.patch_embedding = Conv2D(num_channels, hidden_dim, patch_size, patch_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[batch, height, width, channels]` → `[batch, 2 + patches, hidden_dim]`."""
        x = embed_patches(images, self.patch_embedding, self.data_format, self.image_size)
        tokens = torch.cat((self.class_token, self.distillation_token), dim=1).to(x.dtype)
        x = torch.cat((tokens.expand(x.shape[0], -1, -1), x), dim=1)
        return x + self.position_embedding.to(x.dtype)

    def tables(self) -> dict[str, int]:
        return {"position_embedding": 2}


class DeiTIntermediate(Layer):
    division = Division(columns=("dense",))

    def __init__(self, hidden_dim: int, intermediate_dim: int) -> None:
        super().__init__()
        self.dense = Dense(hidden_dim, intermediate_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return gelu(self.dense(x))


class DeiTOutput(Layer):
    layout = Layout(attributes={"output": "dense"})
    division = Division(rows=("output",))

    def __init__(self, intermediate_dim: int, hidden_dim: int, dropout_rate: float) -> None:
        super().__init__()
        self.output = Dense(intermediate_dim, hidden_dim)
        self.dropout = Dropout(dropout_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.output(x))


class DeiTEncoderBlock(Layer):
    layout = Layout(attributes={"ln_1": "layer_norm_1", "ln_2": "layer_norm_2"})

    def __init__(
        self,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        use_mha_bias: bool,
        dropout_rate: float,
        attention_dropout: float,
        layer_norm_epsilon: float,
    ) -> None:
        super().__init__()
        self.ln_1 = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.mha = MultiHeadAttention(
            num_heads, hidden_dim, head_dim(hidden_dim, num_heads), attention_dropout, use_mha_bias
        )
        self.ln_2 = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.mlp = DeiTIntermediate(hidden_dim, intermediate_dim)
        self.output_layer = DeiTOutput(intermediate_dim, hidden_dim, dropout_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.mha(y, y)
        return x + self.output_layer(self.mlp(self.ln_2(x)))


class DeiTEncoder(ViTEncoder):
    pass


class DeiTBackbone(Backbone):
    """Data-efficient image transformer.

    Images `[batch, height, width, channels]` → `[batch, 2 + patches, hidden_dim]`: class token,
    distillation token, and the patches row by row.

    Args:
        image_shape: height, width and channels of the images, in the order of `data_format`.
        patch_size: side of a patch in pixels, or height and width.
        num_layers: number of blocks.
        num_heads: number of attention heads.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        dropout_rate: of hidden states, in training mode.
        attention_dropout: of attention probabilities, in training mode.
        layer_norm_epsilon: of all norms.
        use_mha_bias: whether the projections of attention have biases.
        data_format: `channels_last` or `channels_first`, of images; `None` for the first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an `image_shape` without height and width, or one that patches do not fill;
            images of another shape.
    """

    unsaved: ClassVar = {"data_format": (None, "channels_last")}
    resampled: ClassVar = ("image_shape",)

    def __init__(
        self,
        image_shape: Sequence[int],
        patch_size: int | Sequence[int],
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        dropout_rate: float = 0.0,
        attention_dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
        use_mha_bias: bool = True,
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.data_format = check_data_format(data_format)
        self.patch_size = pair(patch_size, "patch_size")
        self.deit_patching_and_embedding = DeiTEmbeddings(
            image_size(image_shape, self.data_format, self.patch_size),
            self.patch_size,
            hidden_dim,
            image_channels(image_shape, self.data_format),
            self.data_format,
        )
        blocks = [
            DeiTEncoderBlock(
                num_heads,
                hidden_dim,
                intermediate_dim,
                use_mha_bias,
                dropout_rate,
                attention_dropout,
                layer_norm_epsilon,
            )
            for _ in range(num_layers)
        ]
        norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.deit_encoder = DeiTEncoder(blocks, norm, dropout_rate)

    def forward(self, images: Images) -> torch.Tensor:
        return self.deit_encoder(self.deit_patching_and_embedding(images))
