"""SigLIP (arXiv:2303.15343) and SigLIP 2 (arXiv:2502.14786)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from ._backbone import Backbone
from ._clip import (
    ActivationName,
    ComparedImages,
    ComparedTokenIds,
    Tower,
    check_embedding_dim,
)
from ._inputs import Images, TokenIds
from .layers.activations import Activation, ActivationLike
from .layers.attention import MultiHeadAttention
from .layers.clip import cosines, even_head_dim
from .layers.convolution import Conv2D, check_data_format
from .layers.core import Dense, Embedding, LayerNormalization, ReversibleEmbedding
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.initializers import glorot_uniform, random_normal, variance_scaling
from .layers.layer import Layer
from .layers.layout import GRAPH, Graph, Layout, Stack
from .layers.vision import (
    NumberedPositionGrid,
    check_rows,
    embed_patches,
    image_channels,
    image_size,
)

lecun_normal = variance_scaling(1.0, "fan_in", "truncated_normal")


class SigLIPVisionEmbedding(NumberedPositionGrid):
    """Images → patches, each with its position's vector."""

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
        self.patch_embedding = Conv2D(
            num_channels, hidden_dim, patch_size, patch_size, kernel_initializer=lecun_normal
        )
        self.position_embedding = Embedding(
            self.num_patches, hidden_dim, random_normal(hidden_dim**-0.5)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[batch, height, width, channels]` → `[batch, patches, hidden_dim]`."""
        x = embed_patches(images, self.patch_embedding, self.data_format, self.image_size)
        return self.add_positions(x)


class SigLIPTextEmbedding(Layer):
    """Tokens, each with its position's vector."""

    position_ids: torch.Tensor

    def __init__(self, vocabulary_size: int, sequence_length: int, embedding_dim: int) -> None:
        super().__init__()
        init = random_normal(0.05)
        self.register_buffer("position_ids", torch.arange(sequence_length, dtype=torch.int32)[None])
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, embedding_dim, embeddings_initializer=init
        )
        self.position_embedding = ReversibleEmbedding(
            sequence_length, embedding_dim, embeddings_initializer=init
        )

    def loaded(self) -> None:
        check_rows(self.position_ids, self.position_embedding)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`[batch, length]` → `[batch, length, embedding_dim]`; but one token, as in KerasHub,
        stands at all positions.
        """
        length, longest = token_ids.shape[1], self.position_ids.shape[1]
        if length > longest:
            raise ValueError(
                f"token_ids has length {length}, but the position table has {longest} rows."
            )
        ids = self.position_ids[0] if length == 1 else self.position_ids[0, :length]
        return self.token_embedding(token_ids) + self.position_embedding(ids)


class SigLIPMLP(Layer):
    division = Division(("fc1",), ("fc2",))

    def __init__(self, hidden_dim: int, intermediate_dim: int, activation: ActivationLike) -> None:
        super().__init__()
        init = random_normal(1e-6)
        self.fc1 = Dense(hidden_dim, intermediate_dim, bias_initializer=init)
        self.activation = Activation(activation)
        self.fc2 = Dense(intermediate_dim, hidden_dim, bias_initializer=init)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class SigLIPEncoderLayer(Layer):
    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        activation: ActivationLike,
        epsilon: float,
    ) -> None:
        super().__init__()
        head_dim = even_head_dim(hidden_dim, num_heads)
        self.self_attn = MultiHeadAttention(num_heads, hidden_dim, head_dim)
        self.layer_norm1 = LayerNormalization(hidden_dim, epsilon)
        self.mlp = SigLIPMLP(hidden_dim, intermediate_dim, activation)
        self.layer_norm2 = LayerNormalization(hidden_dim, epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer_norm1(x)
        x = x + self.self_attn(y, y)
        return x + self.mlp(self.layer_norm2(x))


class SigLIPMultiHeadAttentionPooling(Layer):
    """All positions → one vector, which a learned query asks for."""

    layout = Layout(attributes={"layernorm": "layer_norm"})

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        activation: ActivationLike,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, hidden_dim))
        glorot_uniform(self.probe, 1, hidden_dim)
        head_dim = even_head_dim(hidden_dim, num_heads)
        self.attention = MultiHeadAttention(num_heads, hidden_dim, head_dim)
        self.layernorm = LayerNormalization(hidden_dim, epsilon)
        self.mlp = SigLIPMLP(hidden_dim, intermediate_dim, activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, length, hidden_dim]` → `[batch, hidden_dim]`."""
        x = self.attention(self.probe.to(x.dtype).expand(x.shape[0], -1, -1), x)[:, 0]
        return x + self.mlp(self.layernorm(x))


class SigLIPHead(Layer):
    """Cosines of all pairs, times a learned factor, whose logarithm is the weight, plus a bias."""

    keras_shapes: ClassVar = {"logit_scale": (), "logit_bias": ()}

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.zeros(1))
        self.logit_bias = nn.Parameter(torch.zeros(1))

    def forward(self, vision: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """`[images, dim]` and `[texts, dim]` → `[texts, images]`."""
        x = cosines(text, vision)
        return x * self.logit_scale.float().exp().to(x.dtype) + self.logit_bias.to(x.dtype)


class SigLIPVisionEncoder(Tower):
    """Vision Transformer whose patches are pooled by attention.

    `images` `[batch, height, width, channels]` → `[batch, hidden_dim]`.

    Args:
        patch_size: side of a patch in pixels. What patches do not fill of an image is left out.
        hidden_dim: width of the hidden states.
        num_layers: number of blocks.
        num_heads: number of attention heads, a divisor of `hidden_dim`.
        intermediate_dim: width inside the feed-forward networks.
        intermediate_activation: of the feed-forward networks.
        layer_norm_epsilon: of all norms but the one behind the blocks, which has 1e-6.
        image_shape: height, width and channels of the images, in the order of `data_format`;
            KerasHub takes squares only.
        data_format: `channels_last` or `channels_first`, of images; `None` for the first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an `image_shape` without height and width, or smaller than a patch; heads that
            do not divide `hidden_dim`; images of another shape.
    """

    keras_module = "keras_hub.src.models.siglip.siglip_vision_encoder"
    unsaved: ClassVar = {"data_format": (None, "channels_last")}
    resampled: ClassVar = ("image_shape",)

    def __init__(
        self,
        patch_size: int,
        hidden_dim: int,
        num_layers: int,
        num_heads: int,
        intermediate_dim: int,
        intermediate_activation: ActivationName = "gelu_approximate",
        layer_norm_epsilon: float = 1e-6,
        image_shape: Sequence[int] = (224, 224, 3),
        data_format: str | None = None,
        dtype: DTypeLike = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.data_format = check_data_format(data_format)
        even_head_dim(hidden_dim, num_heads)
        patches = (patch_size, patch_size)
        self.embedding = SigLIPVisionEmbedding(
            hidden_dim,
            patches,
            image_size(image_shape, self.data_format, patches, filled=False),
            image_channels(image_shape, self.data_format),
            self.data_format,
        )
        self.encoder_layers = Stack(
            "encoder_block_{}",
            (
                SigLIPEncoderLayer(
                    hidden_dim,
                    num_heads,
                    intermediate_dim,
                    intermediate_activation,
                    layer_norm_epsilon,
                )
                for _ in range(num_layers)
            ),
        )
        self.post_layer_norm = LayerNormalization(hidden_dim, 1e-6)
        self.head = SigLIPMultiHeadAttentionPooling(
            hidden_dim, intermediate_dim, num_heads, intermediate_activation, layer_norm_epsilon
        )

    def forward(self, images: Images) -> torch.Tensor:
        x = self.embedding(images)
        for block in self.encoder_layers:
            x = block(x)
        return self.head(self.post_layer_norm(x))


class SigLIPTextEncoder(Tower):
    """Transformer that sees the whole text, padding included; the last token is projected.

    `token_ids` `[batch, length]` → `[batch, projection_dim]`. Texts are filled up to
    `max_sequence_length` in training, and KerasHub takes no shorter ones.

    Args:
        vocabulary_size: number of token ids.
        embedding_dim: width of the embeddings: `hidden_dim`.
        hidden_dim: width of the hidden states.
        num_layers: number of blocks.
        num_heads: number of attention heads, a divisor of `hidden_dim`.
        intermediate_dim: width inside the feed-forward networks.
        intermediate_activation: of the feed-forward networks.
        layer_norm_epsilon: of all norms.
        max_sequence_length: rows of the position table: the longest text.
        projection_dim: width of the output; `None` for `hidden_dim`.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: another width of embeddings; heads that do not divide `hidden_dim`; texts that
            are too long.
    """

    keras_module = "keras_hub.src.models.siglip.siglip_text_encoder"

    max_sequence_length: int

    def __init__(
        self,
        vocabulary_size: int,
        embedding_dim: int,
        hidden_dim: int,
        num_layers: int,
        num_heads: int,
        intermediate_dim: int,
        intermediate_activation: ActivationName = "gelu_approximate",
        layer_norm_epsilon: float = 1e-6,
        max_sequence_length: int = 64,
        projection_dim: int | None = None,
        dtype: DTypeLike = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_embedding_dim(embedding_dim, hidden_dim)
        even_head_dim(hidden_dim, num_heads)
        self.projection_dim = projection_dim or hidden_dim
        self.embedding = SigLIPTextEmbedding(vocabulary_size, max_sequence_length, embedding_dim)
        self.encoder_layers = Stack(
            "encoder_block_{}",
            (
                SigLIPEncoderLayer(
                    hidden_dim,
                    num_heads,
                    intermediate_dim,
                    intermediate_activation,
                    layer_norm_epsilon,
                )
                for _ in range(num_layers)
            ),
        )
        self.post_layer_norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.head = Dense(hidden_dim, self.projection_dim, kernel_initializer=lecun_normal)

    @property
    def token_embedding(self) -> ReversibleEmbedding:
        return self.embedding.token_embedding

    def forward(self, token_ids: TokenIds) -> torch.Tensor:
        x = self.embedding(token_ids)
        for block in self.encoder_layers:
            x = block(x)
        return self.head(self.post_layer_norm(x)[:, -1])


class SigLIPBackbone(Backbone):
    """An encoder of images and one of texts, whose outputs are compared.

    `images` `[images, height, width, channels]` and `token_ids` `[texts, length]` →
    `vision_logits` `[images, texts]` and `text_logits`, the same transposed: cosines times a
    learned factor, plus a learned bias.

    Args:
        vision_encoder: the encoder of images. `from_preset` takes its `image_shape`, too.
        text_encoder: the encoder of texts; its `projection_dim` is the `hidden_dim` of images.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: encoders of other widths; as the encoders.
    """

    resampled: ClassVar = ("image_shape",)

    def __init__(
        self,
        vision_encoder: SigLIPVisionEncoder,
        text_encoder: SigLIPTextEncoder,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if text_encoder.projection_dim != vision_encoder.hidden_dim:
            raise ValueError(
                f"The text_encoder's projection_dim={text_encoder.projection_dim} must be the "
                f"vision_encoder's hidden_dim={vision_encoder.hidden_dim}."
            )
        self.vision_encoder = vision_encoder
        self.text_encoder = text_encoder
        self.siglip_head = SigLIPHead()

    @property
    def layout(self) -> Layout:
        graph = Graph()
        vision = graph(self.vision_encoder.name, graph("images"))
        text = graph(self.text_encoder.name, graph("token_ids"))
        logits = graph("siglip_head", vision, text)
        assigned = ("vision_encoder", "text_encoder", "siglip_head")
        return replace(GRAPH, order=graph.order(logits, logits), assigned=assigned)

    def forward(
        self, images: ComparedImages, token_ids: ComparedTokenIds
    ) -> dict[str, torch.Tensor]:
        vision = self.get_vision_embeddings(images)
        logits = self.siglip_head(vision, self.get_text_embeddings(token_ids))
        return {"vision_logits": logits.mT, "text_logits": logits}

    def longest(self, given: Mapping[str, Any]) -> dict[str, int]:
        return {"token_ids": self.text_encoder.max_sequence_length}

    def get_vision_embeddings(self, images: torch.Tensor) -> torch.Tensor:
        """Of images without texts, `[images, dim]`; not normalized to length one."""
        return self.vision_encoder(images)

    def get_text_embeddings(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Of texts without images, `[texts, dim]`; not normalized to length one."""
        return self.text_encoder(token_ids)
