"""What every layer is, whatever it computes."""

from __future__ import annotations

from torch import nn


class Layer(nn.Module):
    """A module that can be frozen as a Keras layer is."""

    def loaded(self) -> None:
        """Called when weights have been read from a file of Keras, to compute what they imply."""

    @property
    def trainable(self) -> bool:
        """Whether any weight requires gradients; to set it is to set all."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self.requires_grad_(bool(value))
