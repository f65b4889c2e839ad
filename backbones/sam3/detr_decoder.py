"""SAM 3's decoder in the manner of DETR (arXiv:2005.12872): queries that find objects, and one that
tells whether there are any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch.nn import functional as F

from .._model import Component
from ..layers.activations import ActivationLike
from ..layers.boxes import corners_of, inverse_sigmoid, widened
from ..layers.core import Dropout, Embedding, LayerNormalization
from ..layers.dtypes import DTypeLike
from ..layers.layer import Layer
from ..layers.layout import Layout, Stack
from ..layers.masks import padding_mask_of
from ..layers.vision import check_at_least, check_sides
from .checks import check_heads
from .parts import (
    SAM3MLP,
    Pixels,
    Positions,
    PromptMask,
    Prompts,
    SAM3Attention,
    SAM3DecoderMLP,
    sines,
)


class SAM3DetrDecoderLayer(Layer):
    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        activation: ActivationLike,
        dropout: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.self_attn = SAM3Attention(hidden_dim, num_heads)
        self.self_attn_dropout = Dropout(dropout)
        self.self_attn_layer_norm = LayerNormalization(hidden_dim, epsilon)
        self.text_cross_attn = SAM3Attention(hidden_dim, num_heads)
        self.text_cross_attn_dropout = Dropout(dropout)
        self.text_cross_attn_layer_norm = LayerNormalization(hidden_dim, epsilon)
        self.vision_cross_attn = SAM3Attention(hidden_dim, num_heads)
        self.vision_cross_attn_dropout = Dropout(dropout)
        self.vision_cross_attn_layer_norm = LayerNormalization(hidden_dim, epsilon)
        self.mlp = SAM3MLP(hidden_dim, intermediate_dim, activation, dropout)
        self.mlp_dropout = Dropout(dropout)
        self.mlp_layer_norm = LayerNormalization(hidden_dim, epsilon)

    def forward(
        self,
        x: torch.Tensor,
        query_positions: torch.Tensor,
        prompts: torch.Tensor,
        prompt_mask: torch.Tensor | None,
        pixels: torch.Tensor,
        positions: torch.Tensor,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        """Queries `[batch, queries, dim]` → the same; `bias` is added to their scores of pixels."""
        placed = x + query_positions
        y = self.self_attn(placed, placed, x)
        x = self.self_attn_layer_norm(x + self.self_attn_dropout(y))
        y = self.text_cross_attn(x + query_positions, prompts, prompts, prompt_mask)
        x = self.text_cross_attn_layer_norm(x + self.text_cross_attn_dropout(y))
        y = self.vision_cross_attn(x + query_positions, pixels + positions, pixels, bias)
        x = self.vision_cross_attn_layer_norm(x + self.vision_cross_attn_dropout(y))
        return self.mlp_layer_norm(x + self.mlp_dropout(self.mlp(x)))


class SAM3DetrDecoder(Component):
    """A map's pixels and prompts → queries `[batch, num_queries, hidden_dim]`; their boxes
    `[batch, num_queries, 4]`, centre, width and height from 0 to 1, in float32; and a logit for
    whether anything is there, `[batch, 1]`.

    Args:
        image_shape: height, width and channels of the images.
        patch_size: side of a patch in pixels.
        num_layers: number of blocks.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        num_heads: number of attention heads.
        num_queries: number of objects at the most.
        hidden_activation: of the feed-forward networks.
        dropout_rate: of hidden states, in training mode.
        layer_norm_epsilon: of all norms.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: heads that do not divide `hidden_dim`, or this is no multiple of four; no
            blocks, or images smaller than a patch.
    """

    layout = Layout()
    keras_module = "keras_hub.src.models.sam3.sam3_detr_decoder"
    resampled: ClassVar = ("image_shape",)
    hidden_dim: int
    intermediate_dim: int
    dropout_rate: float

    def __init__(
        self,
        image_shape: Sequence[int],
        patch_size: int,
        num_layers: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        num_queries: int,
        hidden_activation: ActivationLike = "relu",
        dropout_rate: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_heads(hidden_dim, num_heads)
        check_at_least(1, patch_size=patch_size, num_layers=num_layers, num_queries=num_queries)
        check_sides(image_shape=image_shape)
        check_at_least(patch_size, image_shape=image_shape[:2])
        self.grid = (image_shape[0] // patch_size, image_shape[1] // patch_size)
        dim = hidden_dim
        self.layers = Stack(
            "layer_{}",
            (
                SAM3DetrDecoderLayer(
                    dim,
                    intermediate_dim,
                    num_heads,
                    hidden_activation,
                    dropout_rate,
                    layer_norm_epsilon,
                )
                for _ in range(num_layers)
            ),
        )
        self.output_layer_norm = LayerNormalization(dim, layer_norm_epsilon)
        self.box_head = SAM3DecoderMLP(dim, dim, dim, 4)
        self.query_embed = Embedding(num_queries, dim)
        self.reference_points = Embedding(num_queries, 4)
        self.presence_token = Embedding(1, dim)
        self.presence_head = SAM3DecoderMLP(dim, dim, dim, 1)
        self.presence_layer_norm = LayerNormalization(dim, layer_norm_epsilon)
        self.ref_point_head = SAM3DecoderMLP(2 * dim, dim, dim)
        self.box_rpb_embed_x = SAM3DecoderMLP(2, dim, num_heads)
        self.box_rpb_embed_y = SAM3DecoderMLP(2, dim, num_heads)

    def forward(
        self,
        features: Pixels,
        positions: Positions,
        prompts: Prompts,
        prompt_mask: PromptMask | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch, device, mask = features.shape[0], features.device, padding_mask_of(prompt_mask)
        x = torch.cat((table(self.presence_token, device), table(self.query_embed, device)))
        x = x.expand(batch, -1, -1)
        boxes = widened(table(self.reference_points, device)).sigmoid().expand(batch, -1, -1)
        for layer in self.layers:
            # The presence token has no place.
            places = self.ref_point_head(self.sines_of(boxes))
            places = F.pad(places, (0, 0, 1, 0))
            bias = F.pad(self.bias_of(boxes), (0, 0, 1, 0))
            x = layer(x, places, prompts, mask, features, positions, bias)
            queries = self.output_layer_norm(x[:, 1:])
            found = (inverse_sigmoid(boxes, 1e-3) + widened(self.box_head(queries))).sigmoid()
            boxes = found.detach()
        presence = self.presence_head(self.presence_layer_norm(x[:, 0])).clamp(-10, 10)
        return queries, found, presence

    def sines_of(self, boxes: torch.Tensor) -> torch.Tensor:
        """`[batch, queries, 4]` → `[batch, queries, 2 · hidden_dim]`."""
        x, y, width, height = boxes.unbind(-1)
        features = self.hidden_dim // 2
        return torch.cat([sines(one, features) for one in (y, x, width, height)], dim=-1)

    def bias_of(self, boxes: torch.Tensor) -> torch.Tensor:
        """What scores of pixels owe to their distance from a box's edges (arXiv:2308.01904),
        `[batch, heads, queries, pixels]`.
        """
        left, top, right, bottom = corners_of(boxes).unbind(-1)
        down = self.box_rpb_embed_y(distances(self.grid[0], top, bottom))
        along = self.box_rpb_embed_x(distances(self.grid[1], left, right))
        down, along = down.permute(0, 3, 1, 2), along.permute(0, 3, 1, 2)
        return (down[..., :, None] + along[..., None, :]).flatten(-2)


def table(embedding: Embedding, device: torch.device) -> torch.Tensor:
    """All rows of an embedding."""
    return embedding(torch.arange(embedding.num_embeddings, device=device))


def distances(length: int, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Of places along an axis from both edges of boxes, on a logarithmic scale:
    `[batch, queries, length, 2]`.
    """
    places = torch.arange(length, device=start.device) / length
    away = 8 * (places[:, None] - torch.stack((start, end), dim=-1)[:, :, None])
    return away.sign() * (away.abs() + 1).log2() / math.log2(8)
