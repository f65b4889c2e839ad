"""The cases of each family: configurations in odd shapes and with options off their defaults."""

from __future__ import annotations

import importlib
import pkgutil

from ..oracle import Case


def all_cases() -> list[Case]:
    return [
        case
        for module in pkgutil.iter_modules(__path__)
        for case in importlib.import_module(f".{module.name}", __name__).CASES
        if module.name != "common"
    ]
