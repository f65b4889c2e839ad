"""Models that are sharded over processes: saving, adapters, checkpoints, failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from .processes import run
from .sharded import RUNS


@pytest.mark.parametrize("name", RUNS)
def test_processes(name: str, tmp_path: Path) -> None:
    run("-W", "ignore", Path(__file__).with_name("sharded.py"), tmp_path, name, timeout=600)
