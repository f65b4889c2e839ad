"""Cases of families that the installed KerasHub does not have yet.

`tests/make_nightly.py` keeps in `tests/fixtures/nightly` what a nightly release makes of them. When
that release is out the modules move to `tests/cases`.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from ..oracle import Case

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nightly"


def nightly_cases() -> list[Case]:
    return [case for module in _modules() for case in module.CASES]


def nightly_presets() -> dict[str, dict[str, Any]]:
    """Built-in presets → the constructor's arguments."""
    return {name: config for module in _modules() for name, config in module.PRESETS.items()}


def _modules() -> list[Any]:
    found = pkgutil.iter_modules(__path__)
    return [importlib.import_module(f".{module.name}", __name__) for module in found]
