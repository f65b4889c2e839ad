"""`keras_hub.models`: every backbone by name, imported when asked for."""

from __future__ import annotations

from .backbones import Backbone, FeaturePyramidBackbone, find_backbone, import_all

__all__ = ["Backbone", "FeaturePyramidBackbone"]


def __getattr__(name: str) -> type[Backbone]:
    if not name.startswith("_"):
        found = find_backbone(name)
        if found is not None:
            return found
        from .presets.builtin import keras_module

        if keras_module(name) is not None:
            raise NotImplementedError(f"{name} is not part of keras_hub_torch yet.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(import_all())
