"""BLIP-2's tower of images, EVA-CLIP (arXiv:2303.15389)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from .._inputs import Images
from .._model import Component
from ..layers.convolution import pair
from ..layers.core import LayerNormalization
from ..layers.dtypes import DTypeLike
from ..layers.vision import check_at_least
from ..layers.vit import ViTEncoder, ViTEncoderBlock, ViTPatchingAndEmbedding


class BLIP2VisionEncoder(Component):
    """Vision Transformer.

    Images `[batch, height, width, 3]` → `[batch, positions, hidden_dim]`: the class token, if there
    is one, and the patches row by row.

    Args:
        image_size: side of the images in pixels, or height and width.
        patch_size: side of a patch in pixels, or height and width.
        num_layers: number of blocks.
        num_heads: number of attention heads.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        use_patch_bias: whether the projection of patches has a bias.
        use_class_token: whether a learned token stands before the patches.
        use_mha_bias: whether the projections of attention have biases.
        use_mlp_bias: whether the feed-forward networks have biases.
        dropout_rate: of hidden states, in training mode.
        layer_norm_epsilon: of all norms.
        initializer_range: has no effect, as in KerasHub.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: images smaller than a patch, or of another size than `image_size`.
    """

    keras_module = "keras_hub.src.models.blip2.blip2_vision_encoder"
    resampled: ClassVar = ("image_size",)

    def __init__(
        self,
        image_size: int | Sequence[int],
        patch_size: int | Sequence[int],
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        use_patch_bias: bool,
        use_class_token: bool,
        use_mha_bias: bool,
        use_mlp_bias: bool,
        dropout_rate: float,
        layer_norm_epsilon: float,
        initializer_range: float,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.image_size = pair(image_size, "image_size")
        self.patch_size = pair(patch_size, "patch_size")
        for side, patch in zip(self.image_size, self.patch_size):
            check_at_least(patch, image_size=side)
        self.patching_and_embedding = ViTPatchingAndEmbedding(
            self.image_size,
            self.patch_size,
            hidden_dim,
            use_class_token=use_class_token,
            use_patch_bias=use_patch_bias,
        )
        blocks = [
            ViTEncoderBlock(
                num_heads,
                hidden_dim,
                intermediate_dim,
                use_mha_bias,
                use_mlp_bias,
                dropout_rate,
                layer_norm_epsilon=layer_norm_epsilon,
            )
            for _ in range(num_layers)
        ]
        norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.encoder = ViTEncoder(blocks, norm, dropout_rate)

    @property
    def num_vision_tokens_per_image(self) -> int:
        return self.patching_and_embedding.position_embedding.num_embeddings

    def forward(self, images: Images) -> torch.Tensor:
        return self.encoder(self.patching_and_embedding(images))
