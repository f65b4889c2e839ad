"""Gemma 3n's norms."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..layers.core import RMSNormalization
from ..layers.layer import Layer


class Gemma3nRMSNorm(RMSNormalization):
    """The RMS norm under its Keras name."""


class UnscaledRMSNorm(Layer):
    """An RMS norm without weights."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.epsilon).to(x.dtype)
