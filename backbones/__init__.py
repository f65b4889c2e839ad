"""The model families, one module each, found by name when asked for."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from .backbone import Backbone, Component, FeaturePyramidBackbone

__all__ = ["Backbone", "FeaturePyramidBackbone", "families", "find_backbone", "import_all"]


@functools.cache
def families() -> tuple[str, ...]:
    """Names of the family modules."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(name for name in names if name not in ("backbone", "layers"))


def find_backbone(name: str) -> type[Backbone] | None:
    """The class of that name, importing no more modules than needed."""
    wanted = name.lower().removesuffix("backbone").replace("_", "")
    likely = [family for family in families() if family.replace("_", "") == wanted]
    for family in likely + [family for family in families() if family not in likely]:
        found = getattr(_import(family), name, None)
        if isinstance(found, type) and issubclass(found, Backbone):
            return found
    return {"Backbone": Backbone, "FeaturePyramidBackbone": FeaturePyramidBackbone}.get(name)


def import_all() -> dict[str, type[Backbone]]:
    """Every backbone class by name, aliases included; but no components of others."""
    found: dict[str, type[Backbone]] = {
        "Backbone": Backbone,
        "FeaturePyramidBackbone": FeaturePyramidBackbone,
    }
    for family in families():
        for name, value in vars(_import(family)).items():
            is_backbone = isinstance(value, type) and issubclass(value, Backbone)
            if is_backbone and not issubclass(value, Component):
                found[name] = value
    return found


def _import(family: str) -> object:
    return importlib.import_module(f".{family}", __name__)
