"""Models that are sharded over processes: saving, adapters, checkpoints, failures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .sharded import RUNS


@pytest.mark.parametrize("run", RUNS)
def test_processes(run: str, tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("sharded.py"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, str(tmp_path), run],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-6000:]
