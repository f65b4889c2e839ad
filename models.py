"""`keras_hub.models`: every backbone by name, imported when asked for."""

from __future__ import annotations

from typing import Any

from .backbones._backbone import Backbone, FeaturePyramidBackbone
from .backbones._model import Model
from .backbones._registry import find_class, public_classes

__all__ = ["Backbone", "FeaturePyramidBackbone"]


class NotYet(NotImplementedError, AttributeError):
    """A class that KerasHub has and this package has not; `hasattr` says False."""


def __getattr__(name: str) -> Any:
    found = find_class(name, Model)
    if found is not None:
        return found
    from .presets.builtin import keras_module

    if keras_module(name) is not None:
        raise NotYet(f"{name} is not part of keras_hub_torch yet.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *public_classes(Model)})
