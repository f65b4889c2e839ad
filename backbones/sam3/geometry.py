"""SAM 3's encoder of boxes that show what is to be found, or what is not."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .._model import Component
from ..layers.activations import ActivationLike
from ..layers.boxes import corners_of, roi_align, widened
from ..layers.convolution import Conv2D
from ..layers.core import Dense, Embedding, LayerNormalization
from ..layers.dtypes import DTypeLike
from ..layers.layout import Layout, Stack
from ..layers.masks import padding_mask_of
from ..layers.vision import check_at_least
from .checks import check_heads
from .parts import Boxes, BoxLabels, Map, Positions, SAM3CrossLayer, sines

# The label of what is no box.
PADDING = -10


class SAM3GeometryEncoderLayer(SAM3CrossLayer):
    def forward(
        self,
        x: torch.Tensor,
        pixels: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Boxes `[batch, boxes, dim]` and pixels `[batch, pixels, dim]` → boxes."""
        y = self.layer_norm1(x)
        x = x + self.dropout(self.self_attn(y, y, y, mask))
        y = self.layer_norm2(x)
        x = x + self.dropout(self.cross_attn(y, pixels + positions, pixels))
        return x + self.dropout(self.mlp(self.layer_norm3(x)))


class SAM3GeometryEncoder(Component):
    """Boxes → prompts, `[batch, boxes + 1, hidden_dim]`, theirs and a class token's; and which of
    them count, `[batch, boxes + 1]`, or `None` for all.

    `features` is the map that boxes are seen in, `positions` of its pixels are
    `[rows · columns, hidden_dim]`; for `boxes` and `box_labels` see the backbone.

    Args:
        num_layers: number of blocks.
        hidden_dim: width of the hidden states and of the map.
        intermediate_dim: width inside the feed-forward networks.
        num_heads: number of attention heads.
        roi_size: into how many bins, in height and in width, a box is cut.
        hidden_activation: of the feed-forward networks.
        dropout_rate: of hidden states, in training mode.
        layer_norm_epsilon: of all norms.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: heads that do not divide `hidden_dim`, or this is no multiple of four.
    """

    layout = Layout()
    keras_module = "keras_hub.src.models.sam3.sam3_geometry_encoder"

    roi_size: int
    hidden_dim: int

    def __init__(
        self,
        num_layers: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        roi_size: int,
        hidden_activation: ActivationLike = "relu",
        dropout_rate: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_heads(hidden_dim, num_heads)
        check_at_least(1, roi_size=roi_size)
        epsilon = layer_norm_epsilon
        self.label_embed = Embedding(2, hidden_dim)
        self.cls_embed = Embedding(1, hidden_dim)
        self.boxes_direct_project = Dense(4, hidden_dim)
        self.boxes_pool_project = Conv2D(hidden_dim, hidden_dim, roi_size)
        self.boxes_pos_enc_project = Dense(hidden_dim + 2, hidden_dim)
        self.vision_layer_norm = LayerNormalization(hidden_dim, epsilon)
        self.final_proj = Dense(hidden_dim, hidden_dim)
        self.prompt_layer_norm = LayerNormalization(hidden_dim, epsilon)
        self.layers = Stack(
            "layer_{}",
            (
                SAM3GeometryEncoderLayer(
                    hidden_dim,
                    intermediate_dim,
                    num_heads,
                    hidden_activation,
                    dropout_rate,
                    epsilon,
                )
                for _ in range(num_layers)
            ),
        )
        self.output_layer_norm = LayerNormalization(hidden_dim, epsilon)

    def forward(
        self,
        features: Map,
        positions: Positions,
        boxes: Boxes | None = None,
        box_labels: BoxLabels | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        first = torch.zeros(features.shape[0], 1, dtype=torch.long, device=features.device)
        x, shown = self.cls_embed(first), None
        if boxes is not None and box_labels is not None:
            # KerasHub takes the labels for the mask and the mask for the labels: as many boxes as
            # have the label 1 are shown, from the first one on, and all are examples.
            count = (box_labels == 1).sum(1, keepdim=True)
            places = torch.arange(boxes.shape[1] + 1, device=boxes.device)
            shown = places <= count
            x = torch.where(
                (places == count)[..., None],
                x,
                F.pad(self.embed(features, boxes, box_labels != PADDING), (0, 0, 0, 1)),
            )
        x, mask = self.prompt_layer_norm(self.final_proj(x)), padding_mask_of(shown)
        pixels = features.flatten(2).mT
        for layer in self.layers:
            x = layer(x, pixels, positions, mask)
        return self.output_layer_norm(x), shown

    def embed(
        self, features: torch.Tensor, boxes: torch.Tensor, there: torch.Tensor
    ) -> torch.Tensor:
        """Where boxes are, what is in them, and how they are meant: `[batch, boxes, dim]`."""
        boxes = widened(boxes).masked_fill(~there[..., None], 0)
        indices, boxes = boxes[..., 0].long(), boxes[..., 1:]
        rows, columns = features.shape[2:]
        maps = self.vision_layer_norm(features.permute(0, 2, 3, 1))
        scale = boxes.new_tensor((columns, rows, columns, rows))
        corners = corners_of(boxes) * scale
        seen = roi_align(maps, corners.flatten(0, 1), indices.flatten(), self.roi_size)
        pooled = self.boxes_pool_project(seen.permute(0, 3, 1, 2)).flatten(1)
        x, y, width, height = boxes.unbind(-1)
        half = self.hidden_dim // 2
        places = (sines(y, half), sines(x, half), height[..., None], width[..., None])
        return (
            self.label_embed(there.long())
            + self.boxes_direct_project(boxes)
            + pooled.unflatten(0, there.shape)
            + self.boxes_pos_enc_project(torch.cat(places, dim=-1))
        )
