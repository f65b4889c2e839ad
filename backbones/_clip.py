"""The towers that CLIP and MetaCLIP 2 have under two names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from torch import nn

from ._backbone import Backbone
from ._configuration import snake_case
from ._inputs import Images, Input, TokenIds
from .layers.clip import EPSILON, CLIPEmbedding, CLIPEncoderLayer, even_head_dim
from .layers.convolution import check_data_format
from .layers.core import LayerNormalization, ReversibleEmbedding, TokenAndPositionEmbedding
from .layers.dtypes import DTypeLike
from .layers.layout import Kind, Layout, Stack
from .layers.masks import CAUSAL, Mask
from .layers.vision import image_channels, image_size

# Of a model that compares every image with every text.
ComparedImages = Annotated[torch.Tensor, Input("images", ("images", "height", "width", "channels"))]
ComparedTokenIds = Annotated[torch.Tensor, Input("ids", ("texts", "length"))]
# In configurations it stays as it was given.
ActivationName: TypeAlias = str | Mapping[str, Any]


class Tower(Backbone):
    """An encoder whose Keras layers have its name before theirs, if it was given one."""

    @property
    def layout(self) -> Layout:
        # The default name is the one that presets have of a tower without a name.
        named = self.name != snake_case(self.class_name)
        return Layout(Kind.GRAPH, prefix="{}_" if named else "")


class CLIPTower(Tower):
    """Blocks, of which one may give its output as well."""

    hidden_dim: int
    encoder_layers: Stack
    layer_norm: nn.Module
    intermediate_output_index: int | None

    def encode(self, x: torch.Tensor, mask: Mask = None) -> torch.Tensor | dict[str, torch.Tensor]:
        outputs = {}
        for i, block in enumerate(self.encoder_layers):
            x = block(x, mask)
            if i == self.intermediate_output_index:
                outputs["intermediate_output"] = x
        x = self.layer_norm(x)
        return {"sequence_output": x, **outputs} if outputs else x


class CLIPTextTower(CLIPTower):
    block: ClassVar[type[CLIPEncoderLayer]]
    # Of the norm at the end.
    epsilon: ClassVar[float]
    max_sequence_length: int

    def __init__(
        self,
        vocabulary_size: int,
        embedding_dim: int,
        hidden_dim: int,
        num_layers: int,
        num_heads: int,
        intermediate_dim: int,
        intermediate_activation: ActivationName = "quick_gelu",
        intermediate_output_index: int | None = None,
        max_sequence_length: int = 77,
        dtype: DTypeLike = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_embedding_dim(embedding_dim, hidden_dim)
        even_head_dim(hidden_dim, num_heads)
        self.intermediate_output_index = block_index(intermediate_output_index, num_layers)
        self.embedding = TokenAndPositionEmbedding(
            vocabulary_size, max_sequence_length, embedding_dim
        )
        self.encoder_layers = Stack(
            "encoder_block_{}",
            (
                self.block(hidden_dim, num_heads, intermediate_dim, intermediate_activation)
                for _ in range(num_layers)
            ),
        )
        self.layer_norm = LayerNormalization(hidden_dim, self.epsilon)

    @property
    def token_embedding(self) -> ReversibleEmbedding:
        return self.embedding.token_embedding

    def forward(self, token_ids: TokenIds) -> torch.Tensor | dict[str, torch.Tensor]:
        return self.encode(self.embedding(token_ids), CAUSAL)


class CLIPVisionTower(CLIPTower):
    unsaved: ClassVar = {"data_format": (None, "channels_last")}
    resampled: ClassVar = ("image_shape",)
    embed: ClassVar[type[CLIPEmbedding]]
    block: ClassVar[type[CLIPEncoderLayer]]
    # Whether there is a norm at the end.
    normed: ClassVar[bool] = True

    def __init__(
        self,
        patch_size: int,
        hidden_dim: int,
        num_layers: int,
        num_heads: int,
        intermediate_dim: int,
        intermediate_activation: ActivationName = "quick_gelu",
        intermediate_output_index: int | None = None,
        image_shape: Sequence[int] = (224, 224, 3),
        data_format: str | None = None,
        dtype: DTypeLike = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.data_format = check_data_format(data_format)
        self.intermediate_output_index = block_index(intermediate_output_index, num_layers)
        even_head_dim(hidden_dim, num_heads)
        patches = (patch_size, patch_size)
        self.embedding = self.embed(
            hidden_dim,
            patches,
            image_size(image_shape, self.data_format, patches, filled=False),
            image_channels(image_shape, self.data_format),
            self.data_format,
        )
        self.pre_layer_norm = LayerNormalization(hidden_dim, EPSILON)
        self.encoder_layers = Stack(
            "encoder_block_{}",
            (
                self.block(hidden_dim, num_heads, intermediate_dim, intermediate_activation)
                for _ in range(num_layers)
            ),
        )
        self.layer_norm = LayerNormalization(hidden_dim, EPSILON) if self.normed else nn.Identity()

    def forward(self, images: Images) -> torch.Tensor | dict[str, torch.Tensor]:
        return self.encode(self.pre_layer_norm(self.embedding(images)))


def block_index(index: int | None, num_layers: int) -> int | None:
    """The block whose output is asked for, counted from the first.

    Raises:
        ValueError: there is none such.
    """
    if index is not None and not -num_layers <= index < num_layers:
        raise ValueError(
            f"intermediate_output_index={index} is none of the num_layers={num_layers} blocks."
        )
    return index if index is None else index % num_layers


def check_embedding_dim(embedding_dim: int, hidden_dim: int) -> None:
    """Refuse embeddings that blocks cannot add their outputs to."""
    if embedding_dim != hidden_dim:
        raise ValueError(f"embedding_dim={embedding_dim} must be hidden_dim={hidden_dim}.")


def check_tower(tower: CLIPTower, argument: str) -> None:
    """Refuse a tower with two outputs."""
    if tower.intermediate_output_index is not None:
        raise ValueError(
            f"{argument} must have one output, but its intermediate_output_index is "
            f"{tower.intermediate_output_index}."
        )
