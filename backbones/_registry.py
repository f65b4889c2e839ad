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
        found = own_classes(family, base).get(name)
        if found is not None:
            return found
    return None


def public_classes(base: type[ClassType]) -> dict[str, type[ClassType]]:
    """The classes of all families with that base by name, aliases included."""
    return {k: cls for family in families() for k, cls in own_classes(family, base).items()}


def own_classes(family: str, base: type[ClassType]) -> dict[str, type[ClassType]]:
    """Without what the module imports to build on, unless its `__all__` has it."""
    module = import_family(family)
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and not name.startswith("_")
        and (value.__module__.startswith(module.__name__) or name in getattr(module, "__all__", ()))
    }


def import_family(family: str) -> ModuleType:
    """The module of a family, or the package."""
    return importlib.import_module(f".{family}", __package__)
