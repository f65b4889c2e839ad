"""Cases of families that the installed KerasHub does not have yet.

`tests/make_nightly.py` keeps in `tests/fixtures/nightly` what a nightly release makes of them. When
that release is out the modules move to `tests/cases`.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from ..oracle import Case

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nightly"


def nightly_cases() -> list[Case]:
    modules = (
        importlib.import_module(f".{found.name}", __name__)
        for found in pkgutil.iter_modules(__path__)
    )
    return [case for module in modules for case in module.CASES]
