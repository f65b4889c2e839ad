"""Maps of several resolutions, made of the last one of SAM 3's image encoder (arXiv:2203.16527)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..layers.activations import Activation
from ..layers.convolution import Conv2D, Conv2DTranspose
from ..layers.layer import Layer
from ..layers.layout import Parts


def scaling(dim: int, factor: float) -> tuple[list[nn.Module], int]:
    """Layers that make a map so many times as large, and the channels that they leave."""
    if factor == 4.0:
        first = Conv2DTranspose(dim, dim // 2, 2, 2)
        second = Conv2DTranspose(dim // 2, dim // 4, 2, 2)
        return [first, Activation("gelu"), second], dim // 4
    if factor == 2.0:
        return [Conv2DTranspose(dim, dim // 2, 2, 2)], dim // 2
    if factor == 1.0:
        return [], dim
    assert factor == 0.5
    return [nn.MaxPool2d(2)], dim


class SAM3FPNLayer(Layer):
    """A map → one of another resolution."""

    def __init__(self, input_dim: int, fpn_dim: int, scale_factor: float) -> None:
        super().__init__()
        layers, channels = scaling(input_dim, scale_factor)
        self.scale_layers = Parts("scale_layers_{}", layers)
        self.proj1 = Conv2D(channels, fpn_dim, 1)
        self.proj2 = Conv2D(fpn_dim, fpn_dim, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.scale_layers:
            x = layer(x)
        return self.proj2(self.proj1(x))


class SAM3VisionNeck(Layer):
    def __init__(self, hidden_dim: int, fpn_dim: int, scale_factors: Sequence[float]) -> None:
        super().__init__()
        self.fpn_layers = Parts(
            "fpn_layer_{}", (SAM3FPNLayer(hidden_dim, fpn_dim, factor) for factor in scale_factors)
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [layer(x) for layer in self.fpn_layers]
