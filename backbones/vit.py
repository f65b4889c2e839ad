"""ViT (arXiv:2010.11929)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from ._backbone import Backbone
from ._inputs import Images
from .layers.convolution import check_data_format, pair
from .layers.core import LayerNormalization
from .layers.dtypes import DTypeLike
from .layers.vision import image_channels, image_size
from .layers.vit import ViTEncoder, ViTEncoderBlock, ViTPatchingAndEmbedding


class ViTBackbone(Backbone):
    """Vision Transformer.

    Images `[batch, height, width, channels]` → `[batch, positions, hidden_dim]`: the class token,
    if there is one, and the patches row by row.

    Args:
        image_shape: height, width and channels of the images, in the order of `data_format`.
        patch_size: side of a patch in pixels, or height and width.
        num_layers: number of blocks.
        num_heads: number of attention heads.
        hidden_dim: width of the hidden states.
        mlp_dim: width inside the feed-forward networks.
        dropout_rate: of hidden states, in training mode.
        attention_dropout: of attention probabilities, in training mode.
        layer_norm_epsilon: of all norms.
        use_mha_bias: whether the projections of attention have biases.
        use_mlp_bias: whether the feed-forward networks have biases.
        use_class_token: whether a learned token stands before the patches.
        use_patch_bias: whether the projection of patches has a bias.
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
        mlp_dim: int,
        dropout_rate: float = 0.0,
        attention_dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
        use_mha_bias: bool = True,
        use_mlp_bias: bool = True,
        use_class_token: bool = True,
        use_patch_bias: bool = True,
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.data_format = check_data_format(data_format)
        self.patch_size = pair(patch_size, "patch_size")
        self.vit_patching_and_embedding = ViTPatchingAndEmbedding(
            image_size(image_shape, self.data_format, self.patch_size),
            self.patch_size,
            hidden_dim,
            image_channels(image_shape, self.data_format),
            use_class_token,
            use_patch_bias,
            self.data_format,
        )
        blocks = [
            ViTEncoderBlock(
                num_heads,
                hidden_dim,
                mlp_dim,
                use_mha_bias,
                use_mlp_bias,
                dropout_rate,
                attention_dropout,
                layer_norm_epsilon,
            )
            for _ in range(num_layers)
        ]
        norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.vit_encoder = ViTEncoder(blocks, norm, dropout_rate)

    def forward(self, images: Images) -> torch.Tensor:
        return self.vit_encoder(self.vit_patching_and_embedding(images))
