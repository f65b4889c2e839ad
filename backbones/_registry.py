"""The model families, one module each, found by name when asked for."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TypeVar

ClassType = TypeVar("ClassType")


@functools.cache
def families() -> tuple[str, ...]:
    """Names of the family modules: all but `layers` and what begins with an underscore."""
    names = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return tuple(name for name in names if name != "layers" and not name.startswith("_"))


def find_class(name: str, base: type[ClassType]) -> type[ClassType] | None:
    """The class of that name and base, importing no more families than needed."""
    if not name.isidentifier() or name.startswith("_"):
        return None
    wanted = name.lower().replace("_", "")
    likely = [family for family in families() if wanted.startswith(family.replace("_", ""))]
    likely.sort(key=len, reverse=True)
    for family in likely + [family for family in families() if family not in likely]:
        found = getattr(import_family(family), name, None)
        if isinstance(found, type) and issubclass(found, base):
            return found
    return None


def public_classes(base: type[ClassType]) -> dict[str, type[ClassType]]:
    """The classes of all families with that base by name, aliases included."""
    return {
        name: value
        for family in families()
        for name, value in vars(import_family(family)).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and not name.startswith("_")
        # What a family file imports to build on is not its own, unless it says so.
        and (
            value.__module__.startswith(import_family(family).__name__)
            or name in getattr(import_family(family), "__all__", ())
        )
    }


def import_family(family: str) -> ModuleType:
    return importlib.import_module(f".{family}", __package__)
