"""The cases of each family: configurations in odd shapes and with options off their defaults."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from ..oracle import Case


def all_cases() -> list[Case]:
    return [case for module in _modules() for case in module.CASES]


def all_presets() -> dict[str, dict[str, Any]]:
    """Built-in presets → the constructor's arguments."""
    return {
        preset_id: config
        for module in _modules()
        for preset_id, config in getattr(module, "PRESETS", {}).items()
    }


def all_miscounted() -> dict[str, int]:
    """Built-in presets → how many parameters too many KerasHub's registry says."""
    return {
        preset_id: surplus
        for module in _modules()
        for preset_id, surplus in getattr(module, "MISCOUNTED", {}).items()
    }


def _modules() -> list[Any]:
    return [
        importlib.import_module(f".{module.name}", __name__)
        for module in pkgutil.iter_modules(__path__)
        if module.name != "common"
    ]
