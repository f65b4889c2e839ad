"""Text, pixels and sound → a backbone's inputs, from a preset's own assets."""

from __future__ import annotations

from ._layer import PreprocessingLayer, public_classes
from .preprocessor import Preprocessor
from .tokenizers.base import Tokenizer

__all__ = ["find_step", "layers"]


def find_step(name: str) -> type[PreprocessingLayer] | None:
    """The tokenizer or preprocessor of that name, as `keras_hub.models` has them."""
    found = None if name.startswith("_") else public_classes().get(name)
    return found if found is not None and issubclass(found, (Tokenizer, Preprocessor)) else None


def layers() -> dict[str, type[PreprocessingLayer]]:
    """Packers and converters by name, as `keras_hub.layers` has them."""
    found = public_classes().items()
    return {k: cls for k, cls in found if not issubclass(cls, (Tokenizer, Preprocessor))}
