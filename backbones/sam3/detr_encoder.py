"""SAM 3's encoder in the manner of DETR (arXiv:2005.12872): a map that has seen the prompts."""

from __future__ import annotations

import torch

from .._model import Component
from ..layers.activations import ActivationLike
from ..layers.dtypes import DTypeLike
from ..layers.layout import Layout, Stack
from ..layers.masks import padding_mask_of
from .checks import check_heads
from .parts import Pixels, Positions, PromptMask, Prompts, SAM3CrossLayer


class SAM3DetrEncoderLayer(SAM3CrossLayer):
    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        prompts: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        y = self.layer_norm1(x)
        placed = y + positions
        x = x + self.dropout(self.self_attn(placed, placed, y))
        x = x + self.dropout(self.cross_attn(self.layer_norm2(x), prompts, prompts, mask))
        return x + self.dropout(self.mlp(self.layer_norm3(x)))


class SAM3DetrEncoder(Component):
    """A map's pixels row by row, `[batch, pixels, hidden_dim]` → the same.

    Args:
        num_layers: number of blocks.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        num_heads: number of attention heads.
        hidden_activation: of the feed-forward networks.
        dropout_rate: of hidden states, in training mode.
        layer_norm_epsilon: of all norms.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: heads that do not divide `hidden_dim`, or this is no multiple of four.
    """

    layout = Layout()
    keras_module = "keras_hub.src.models.sam3.sam3_detr_encoder"

    def __init__(
        self,
        num_layers: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        hidden_activation: ActivationLike = "relu",
        dropout_rate: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_heads(hidden_dim, num_heads)
        self.layers = Stack(
            "layer_{}",
            (
                SAM3DetrEncoderLayer(
                    hidden_dim,
                    intermediate_dim,
                    num_heads,
                    hidden_activation,
                    dropout_rate,
                    layer_norm_epsilon,
                )
                for _ in range(num_layers)
            ),
        )

    def forward(
        self,
        features: Pixels,
        positions: Positions,
        prompts: Prompts,
        prompt_mask: PromptMask | None = None,
    ) -> torch.Tensor:
        x, mask = features, padding_mask_of(prompt_mask)
        for layer in self.layers:
            x = layer(x, positions, prompts, mask)
        return x
