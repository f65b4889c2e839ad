"""Gemma 3's vision tower: SigLIP (arXiv:2303.15343), pooled and projected to the text's width.

It is Gemma 3's in KerasHub, but others have it, too.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch.nn import functional as F

from ._inputs import Input
from ._model import Component
from .layers.core import Dense, UnitRMSNormalization
from .layers.dtypes import DTypeLike, DTypePolicy
from .layers.initializers import random_normal
from .layers.layer import Layer
from .layers.layout import Layout
from .layers.multimodal import check_range
from .layers.siglip import SiglipAttention, SiglipBlock, SiglipEmbeddings, SiglipEncoder
from .layers.vision import check_images

ImagesOfRows = Annotated[
    torch.Tensor, Input("images", ("batch", "images", "height", "width", "channels"))
]
VisionIndices = Annotated[torch.Tensor, Input("places", ("batch", "vision_tokens"))]


class Gemma3VisionEmbedding(SiglipEmbeddings):
    pass


class Gemma3VisionAttention(SiglipAttention):
    pass


class Gemma3VisionEncoderLayer(SiglipBlock):
    pass


class Gemma3VisionEncoderBlock(SiglipEncoder):
    pass


class Gemma3VisionAveragePooling(Layer):
    layout = Layout(built_on_call=True)

    def __init__(self, width: int, pool_size: int) -> None:
        super().__init__()
        self.width = width
        self.pool_size = pool_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[images, width · width, dim]` → `[images, tokens, dim]`."""
        x = x.unflatten(1, (self.width, self.width)).permute(0, 3, 1, 2)
        return F.avg_pool2d(x, self.pool_size).flatten(2).mT


class Gemma3VisionOutput(Layer):
    layout = Layout(built_on_call=True)

    def __init__(self, hidden_dim: int, output_dim: int, epsilon: float) -> None:
        super().__init__()
        self.vision_soft_embedding_norm = UnitRMSNormalization(hidden_dim, epsilon)
        self.vision_input_projection = Dense(
            hidden_dim, output_dim, use_bias=False, kernel_initializer=random_normal(0.01)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.vision_input_projection(self.vision_soft_embedding_norm(x))


class Gemma3VisionEncoder(Component):
    """Images → a few tokens each.

    It computes in float32 where bfloat16 is asked for, and keeps its dtype within a model of
    another one.

    `images` `[batch, images, image_size, image_size, 3]` → `[batch · images, tokens, output_dim]`.

    Args:
        image_size: side of the images in pixels.
        patch_size: side of a patch in pixels.
        num_heads: number of attention heads, a divisor of `hidden_dim`.
        hidden_dim: width of the hidden states.
        num_layers: number of blocks.
        intermediate_dim: width inside the feed-forward networks.
        output_dim: width of the tokens: the text model's `hidden_dim`.
        pool_size: side of the square of patches that becomes a token.
        layer_norm_epsilon: of the norm before the projection; the others have 1e-6.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: `hidden_dim` is not divisible by `num_heads`; images of another size.
    """

    keras_module = "keras_hub.src.models.gemma3.gemma3_vision_encoder"
    output_dim: int

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        num_heads: int,
        hidden_dim: int,
        num_layers: int,
        intermediate_dim: int,
        output_dim: int,
        pool_size: int = 14,
        layer_norm_epsilon: float = 1e-6,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        policy = DTypePolicy.get(dtype)
        super().__init__("float32" if policy.name == "bfloat16" else policy, trainable, name)
        if hidden_dim % num_heads:
            raise ValueError(f"hidden_dim={hidden_dim} is not divisible by num_heads={num_heads}.")
        width = image_size // patch_size
        self.image_size = image_size
        self.num_vision_tokens_per_image = width**2 // pool_size**2
        self.image_encoder = Gemma3VisionEncoderBlock(
            Gemma3VisionEmbedding(image_size, patch_size, hidden_dim),
            (
                Gemma3VisionEncoderLayer(
                    Gemma3VisionAttention(hidden_dim, num_heads), hidden_dim, intermediate_dim
                )
                for _ in range(num_layers)
            ),
            hidden_dim,
        )
        self.pooling = Gemma3VisionAveragePooling(width, pool_size)
        self.vision_output_encoder = Gemma3VisionOutput(hidden_dim, output_dim, layer_norm_epsilon)

    @property
    def fixed_dtype(self) -> DTypePolicy:
        return self.dtype_policy

    def tokens_of_rows(self, images: torch.Tensor) -> torch.Tensor:
        """`[batch, images · tokens, output_dim]`."""
        return self(images).unflatten(0, images.shape[:2]).flatten(1, 2)

    def check(
        self, images: torch.Tensor, vision_indices: torch.Tensor | None, token_ids: torch.Tensor
    ) -> None:
        """Refuse images that the tower cannot take, or whose tokens have no places.

        Raises:
            ValueError: images of another size, no indices, others than one for each token, or some
                outside of the text.
        """
        if vision_indices is None:
            raise ValueError("images need vision_indices.")
        check_images(images, "channels_last", 3, (self.image_size, self.image_size))
        per_image = (self.pooling.width // self.pooling.pool_size) ** 2
        count, places = images.shape[1] * per_image, vision_indices.shape[1]
        if places != count:
            raise ValueError(
                f"vision_indices has {places} places a row, but images give {count}: "
                f"{images.shape[1]} times {per_image} tokens."
            )
        check_range("vision_indices", vision_indices, token_ids.shape[1])

    def forward(self, images: ImagesOfRows) -> torch.Tensor:
        x = self.image_encoder(images.flatten(0, 1))
        return self.vision_output_encoder(self.pooling(x))
