"""`keras_hub.tokenizers`: text → token ids and back; every class by name, found when asked for."""

from __future__ import annotations

from typing import Any

from .._layer import find_class, public_classes
from .base import Tokenizer

__all__ = ["Tokenizer"]


def __getattr__(name: str) -> Any:
    found = None if name.startswith("_") else find_class(name, Tokenizer)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


def __dir__() -> list[str]:
    return sorted(k for k, cls in public_classes().items() if issubclass(cls, Tokenizer))
