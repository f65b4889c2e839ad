"""`benchmarks/gpu.py` on a CPU, in tiny: on a machine with a GPU every minute counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = str(ROOT / "benchmarks/gpu.py")
IMAGES = ("ResNet-50", "ViT-B")
# timm needs what `import_timm` does, in the process that the parts are forked from.
WITH_TIMM = """
import runpy, sys
sys.path.append({tests!r})
from timm_models import import_timm
import_timm()
sys.argv = {argv!r}
runpy.run_path({script!r}, run_name="__main__")
"""
FAULTS = """
import os, signal, sys, time
sys.path.append({folder!r})
import gpu
from gpu import Part, Row, race, run_part

def crash(tiny):
    yield Row("first")
    os.kill(os.getpid(), signal.SIGSEGV)

def fail(tiny):
    yield Row("first")
    raise ValueError("no such thing")

def hang(tiny):
    yield Row("first")
    time.sleep(600)

def peer():
    raise RuntimeError("out of memory")

def nothing():
    time.sleep(0.03)

def compare(tiny):
    yield from race(Row("second"), nothing, {{"A": peer, "B": lambda: nothing}}, runs=2)

for rows in (crash, fail, hang, compare):
    for row in run_part(Part("part", 0, rows), True, 3 if rows is hang else 500):
        print(row.part, row.name, row.peer, row.note, row.failed, sep="|")
"""


def run(*command: str, **environment: str) -> str:
    """Standard output of a process without this environment's package."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *command], env=inherited | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_part(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not request.config.getoption("--all-cases"):
        pytest.skip("takes its time")
    for name in ("keras", "keras_hub", "kagglehub", "tensorflow"):
        missing = f"raise ModuleNotFoundError('not on that machine', name={name!r})\n"
        (tmp_path / f"{name}.py").write_text(missing)
    found = tmp_path / "rows.json"
    table = run(SCRIPT, "--tiny", "--json", str(found), PYTHONPATH=str(tmp_path))
    rows = json.loads(found.read_text())
    assert not [row for row in rows if row["failed"]], table
    assert all(row["name"] in table for row in rows)
    assert all(row["share"] for row in rows if row["work"] and row["part"] != "rates")
    peers: dict[str, set[str]] = {}
    for row in rows:
        if row["part"] not in IMAGES:  # see test_timm
            peers.setdefault(row["part"], set()).add(row["peer"].partition(",")[0])
            assert not row["peer"] or row["theirs"], row["note"]
    assert peers == {
        "correctness": {""},
        "rates": {""},
        "Gemma 2B": {"transformers"},
        "Llama 3 8B": {"transformers"},
        "BERT base": {"transformers"},
        "experts": {"dense", "transformers"},
        "loading": {"safetensors", "h5"},
        "LoRA": {"PEFT"},
    }
    assert all(row["ours"] for row in rows if row["part"] == "ResNet-50")


def test_timm(tmp_path: Path) -> None:
    found = tmp_path / "rows.json"
    only = [word for part in IMAGES for word in ("--only", part)]
    argv = [SCRIPT, "--tiny", "--json", str(found), *only]
    run("-c", WITH_TIMM.format(tests=str(ROOT / "tests"), argv=argv, script=SCRIPT))
    rows = json.loads(found.read_text())
    assert {row["part"] for row in rows} == set(IMAGES)
    for row in rows:
        absent = row["part"] == "ViT-B" and row["note"] == "not part of the package yet"
        assert absent or (row["peer"] == "timm" and row["theirs"])


def test_what_fails_is_reported() -> None:
    lines = run("-c", FAULTS.format(folder=str(ROOT / "benchmarks"))).splitlines()
    assert lines == [
        "part|first|||False",
        "part|||ended with -11|True",
        "part|first|||False",
        "part|||ValueError: no such thing (<string>:13)|True",
        "part|first|||False",
        "part|||stopped after 3 s|True",
        "part|second|A|A failed: RuntimeError: out of memory (<string>:20)|False",
        "part|second|B||False",
    ]
