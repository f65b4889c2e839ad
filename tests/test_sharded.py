"""Saving from models that are sharded over processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_hub_torch.models import BertBackbone, GemmaBackbone

from .test_families import dump

MODELS = {
    "bert": lambda: BertBackbone(37, 2, 2, 12, 20, max_sequence_length=17),
    "gemma": lambda: GemmaBackbone(31, 3, 2, 1, 10, 12, 4),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("adapters", [False, True])
def test_two_processes(name: str, adapters: bool, tmp_path: Path) -> None:
    MODELS[name]().save_to_preset(tmp_path / "preset")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "ADAPTERS": str(int(adapters)), "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("sharded.py"))
    done = subprocess.run(
        [*command, script, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    weights = "model.weights.h5"
    same = dump(tmp_path / "keras" / weights) == dump(tmp_path / "preset" / weights)
    assert same is not adapters
