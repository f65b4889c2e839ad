"""Projections whose inputs and outputs are kept within bounds that a checkpoint has."""

from __future__ import annotations

import torch

from ..layers.core import Dense, EinsumDense
from ..layers.layer import Layer
from ..layers.layout import Layout

LARGEST = 65504.0  # of float16


class Clipped(Layer):
    """A projection between two bounds.

    Args:
        clipped: whether there are bounds.
    """

    input_min: torch.Tensor
    input_max: torch.Tensor
    output_min: torch.Tensor
    output_max: torch.Tensor

    def __init__(self, dense: Dense, clipped: bool = True) -> None:
        super().__init__()
        self.dense = dense
        self.clipped = clipped
        if clipped:
            for side in ("input", "output"):
                self.register_buffer(f"{side}_min", torch.tensor(-LARGEST))
                self.register_buffer(f"{side}_max", torch.tensor(LARGEST))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.clipped:
            return self.dense(x)
        x = x.clamp(self.input_min.to(x.dtype), self.input_max.to(x.dtype))
        x = self.dense(x)
        return x.clamp(self.output_min.to(x.dtype), self.output_max.to(x.dtype))


class Gemma4ClippableEinsumDense(Clipped):
    def __init__(
        self,
        equation: str,
        inputs: int | tuple[int, int],
        outputs: int | tuple[int, int],
        clipped: bool,
    ) -> None:
        super().__init__(EinsumDense(equation, inputs, outputs), clipped)


class Gemma4ClippableDense(Clipped):
    layout = Layout(names={"dense": "{}_dense"})

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(Dense(inputs, outputs, use_bias=False))
