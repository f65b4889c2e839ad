"""`keras_hub.layers`: packers and converters by name, found when asked for."""

from __future__ import annotations

from typing import Any

from . import preprocessing


def __getattr__(name: str) -> Any:
    found = None if name.startswith("_") else preprocessing.layers().get(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


def __dir__() -> list[str]:
    return sorted(preprocessing.layers())
