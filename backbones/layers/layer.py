"""What every layer is, whatever it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ClassVar

import torch
from torch import nn

from .division import Division

_computed_again: ContextVar[bool] = ContextVar("computed_again", default=False)


def computed_again() -> bool:
    """Whether gradient checkpointing repeats a forward pass, of which statistics know already."""
    return _computed_again.get()


@contextlib.contextmanager
def computing_again() -> Iterator[None]:
    token = _computed_again.set(True)
    try:
        yield
    finally:
        _computed_again.reset(token)


class Layer(nn.Module):
    """A module that can be frozen as a Keras layer is.

    Attributes:
        keras_shapes: of those parameters and buffers that have another shape in Keras.
        float32: names of buffers that are float32 whatever the dtype.
        division: how processes that compute the layer together divide it.
    """

    keras_shapes: ClassVar[dict[str, tuple[int, ...]]] = {}
    float32: ClassVar[frozenset[str]] = frozenset()
    division: ClassVar[Division | None] = None

    def loaded(self) -> None:
        """Called when weights have been read from a file of Keras, to compute what they imply."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        kept = {name: self._buffers.get(name) for name in self.float32}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in kept.items():
            new = self._buffers.get(name)
            if old is not None and new is not None and new.dtype != torch.float32:
                self._buffers[name] = old.to(new.device)
        return self

    @property
    def trainable(self) -> bool:
        """Whether any weight requires gradients; to set it is to set all."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for parameter in self.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(bool(value))
