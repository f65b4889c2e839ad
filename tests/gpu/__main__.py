"""Run the tests of this folder where pytest is not installed; words choose by name, as its `-k`."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import sys
import tempfile
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Test = Callable[..., None]


class Mark:
    """As much of `pytest.mark` as these tests use."""

    @staticmethod
    def parametrize(names: str | tuple[str, ...], values: Any) -> Callable[[Test], Test]:
        names = (names,) if isinstance(names, str) else names

        def mark(test: Test) -> Test:
            rows = [value if len(names) > 1 else (value,) for value in values]
            choices = [dict(zip(names, row)) for row in rows]
            test.__dict__["choices"] = [*test.__dict__.get("choices", ()), choices]
            return test

        return mark

    @staticmethod
    def skipif(condition: bool, reason: str) -> Callable[[Test], Test]:
        def mark(test: Test) -> Test:
            test.__dict__["skipped"] = condition
            return test

        return mark


def tests() -> Iterator[tuple[str, Test, dict[str, Any]]]:
    """Name, function and arguments."""
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not found.name.startswith("test_"):
            continue
        module = importlib.import_module(f".{found.name}", __package__)
        for name, test in vars(module).items():
            if name.startswith("test_"):
                for chosen in itertools.product(*test.__dict__.get("choices", ())):
                    arguments = {k: v for one in chosen for k, v in one.items()}
                    values = "-".join(map(str, arguments.values()))
                    yield f"{found.name}.{name}[{values}]", test, arguments


def main(words: list[str]) -> int:
    sys.modules["pytest"] = types.ModuleType("pytest")
    sys.modules["pytest"].mark = Mark  # type: ignore[attr-defined]
    passed = failed = skipped = 0
    for name, test, arguments in tests():
        if not all(word in name for word in words):
            continue
        if test.__dict__.get("skipped"):
            skipped += 1
            continue
        try:
            if "tmp_path" in inspect.signature(test).parameters:
                with tempfile.TemporaryDirectory() as folder:
                    test(**arguments, tmp_path=Path(folder))
            else:
                test(**arguments)
            passed += 1
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"FAILED {name}", flush=True)
    print(f"{failed} failed, {passed} passed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
