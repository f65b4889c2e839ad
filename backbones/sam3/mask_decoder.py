"""SAM 3's decoder of masks, in the manner of MaskFormer (arXiv:2107.06278)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch.nn import functional as F

from .._model import Component
from ..layers.convolution import (
    Conv2D,
    GroupNormalization,
    channels_back,
    channels_first,
    check_data_format,
    resize,
)
from ..layers.core import Dense, Dropout, LayerNormalization
from ..layers.dtypes import DTypeLike
from ..layers.layer import Layer
from ..layers.layout import Layout, Parts
from ..layers.masks import padding_mask_of
from ..layers.vision import check_at_least
from .checks import check_heads
from .parts import Pixels, PromptMask, Prompts, Queries, SAM3Attention

GROUPS = 8


class SAM3MaskEmbedder(Layer):
    """Queries → what is multiplied with pixels."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.layers = Parts("layer_{}", (Dense(hidden_dim, hidden_dim) for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)


class SAM3PixelDecoder(Layer):
    """Maps, the finest first → one of the resolution of the first."""

    def __init__(self, num_stages: int, hidden_dim: int) -> None:
        super().__init__()
        stages = range(num_stages)
        self.conv_layers = Parts(
            "conv_layer_{}", (Conv2D(hidden_dim, hidden_dim, 3, padding=1) for _ in stages)
        )
        self.norms = Parts(
            "norm_{}", (GroupNormalization(GROUPS, hidden_dim, 1e-5) for _ in stages)
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        *finer, x = maps
        for conv, norm, fine in zip(self.conv_layers, self.norms, reversed(finer)):
            x = resize(x, fine.shape[2:], "nearest") + fine
            x = F.relu(norm(conv(x)))
        return x


class SAM3MaskDecoder(Component):
    """Queries and maps → masks, `[batch, rows, columns, queries]` in the resolution of the first
    map, and one for all objects together, `[batch, rows, columns, 1]`.

    `maps` are `[batch, hidden_dim, rows, columns]`, the finest first; in the place of the last one
    stand its pixels as the encoder has left them, `features` `[batch, pixels, hidden_dim]`.

    Args:
        num_upsampling_stages: maps that are taken in besides the last one, at the most.
        hidden_dim: width of the hidden states, a multiple of eight.
        num_heads: number of attention heads.
        dropout_rate: of what attention gives, in training mode.
        layer_norm_epsilon: of the norm before attention.
        data_format: `channels_last` or `channels_first`, of the masks; `None` for the first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: heads or eight groups that do not divide `hidden_dim`; more maps than stages.
    """

    layout = Layout()
    keras_module = "keras_hub.src.models.sam3.sam3_mask_decoder"
    unsaved: ClassVar = {"data_format": (None, "channels_last")}
    num_upsampling_stages: int

    def __init__(
        self,
        num_upsampling_stages: int,
        hidden_dim: int,
        num_heads: int,
        dropout_rate: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.data_format = check_data_format(data_format)
        check_at_least(0, num_upsampling_stages=num_upsampling_stages)
        check_heads(hidden_dim, num_heads, GROUPS)
        self.pixel_decoder = SAM3PixelDecoder(num_upsampling_stages, hidden_dim)
        self.mask_embedder = SAM3MaskEmbedder(hidden_dim)
        self.instance_projection = Conv2D(hidden_dim, hidden_dim, 1)
        self.semantic_projection = Conv2D(hidden_dim, 1, 1)
        self.prompt_cross_attn = SAM3Attention(hidden_dim, num_heads)
        self.prompt_cross_attn_norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.prompt_cross_attn_dropout = Dropout(dropout_rate)

    def keep_stages(self, count: int) -> None:
        """Leave out those stages that there are no maps for, as Keras never builds them.

        Raises:
            ValueError: there are fewer.
        """
        if self.num_upsampling_stages < count:
            raise ValueError(
                f"num_upsampling_stages={self.num_upsampling_stages} of the mask_decoder must be "
                f"at least {count}, two less than fpn_scale_factors of the vision_encoder."
            )
        del self.pixel_decoder.conv_layers[count:], self.pixel_decoder.norms[count:]

    def forward(
        self,
        queries: Queries,
        maps: Sequence[torch.Tensor],
        features: Pixels,
        prompts: Prompts,
        prompt_mask: PromptMask | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.prompt_cross_attn_norm(features)
        y = self.prompt_cross_attn(y, prompts, prompts, padding_mask_of(prompt_mask))
        x = features + self.prompt_cross_attn_dropout(y)
        *finer, last = maps
        x = channels_first(x.unflatten(1, last.shape[2:]), "channels_last")
        x = self.pixel_decoder([*finer, x])
        pixels = self.instance_projection(x)
        masks = self.mask_embedder(queries) @ pixels.flatten(2)
        both = (masks.unflatten(2, x.shape[2:]), self.semantic_projection(x))
        return channels_back(both[0], self.data_format), channels_back(both[1], self.data_format)
