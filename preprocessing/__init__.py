"""Text, pixels and sound → a backbone's inputs, from a preset's own assets."""

from __future__ import annotations

from ._layer import PreprocessingLayer, public_classes
from .preprocessor import Preprocessor
from .tokenizers.base import Tokenizer

__all__ = ["layers", "steps"]


def steps() -> dict[str, type[PreprocessingLayer]]:
    """Tokenizers and preprocessors by name, as `keras_hub.models` has them."""
    return _split(public_classes(), True)


def layers() -> dict[str, type[PreprocessingLayer]]:
    """Packers and converters by name, as `keras_hub.layers` has them."""
    return _split(public_classes(), False)


def _split(
    classes: dict[str, type[PreprocessingLayer]], steps: bool
) -> dict[str, type[PreprocessingLayer]]:
    kinds = (Tokenizer, Preprocessor)
    return {name: cls for name, cls in classes.items() if issubclass(cls, kinds) == steps}
