"""Models that several processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from keras_hub_torch import models
from keras_hub_torch.distributed.parallel import Dividing

from .cases import all_cases
from .nightly import nightly_cases
from .processes import TORCHRUN, run

CASES = list({case.cls: case for case in reversed([*all_cases(), *nightly_cases()])}.values())
# What is not made of layers that say how they are divided.
WITHOUT_PLAN = {
    *("BASNetBackbone", "CSPNetBackbone", "DFineBackbone", "DeepLabV3Backbone"),
    *("DenseNetBackbone", "EfficientNetBackbone", "FluxBackbone", "HGNetV2Backbone"),
    *("MMDiT", "MiTBackbone", "MobileNetBackbone", "MobileNetV5Backbone", "Qwen3_5Backbone"),
    *("Qwen3_5MoeBackbone", "RQVAEBackbone", "RWKV7Backbone", "ResNetBackbone"),
    *("RetinaNetBackbone", "SAM3PromptableConceptBackbone", "SAMBackbone", "SegFormerBackbone"),
    *("StableDiffusion3Backbone", "SwinTransformerBackbone", "VAEBackbone", "VGGBackbone"),
    *("VideoPrismBackbone", "ViTDetBackbone", "XceptionBackbone", "DepthAnythingBackbone"),
}


def share(count: int, folder: Path, *arguments: str) -> None:
    script = Path(__file__).with_name("sharing.py")
    each = f"--nproc-per-node={count}"
    run(*TORCHRUN, each, script, folder, *arguments, timeout=600 if arguments else 200)


@pytest.mark.parametrize("count", [2, 4])
def test_processes(count: int, tmp_path: Path) -> None:
    share(count, tmp_path)


@pytest.mark.parametrize("plan", ["fsdp", "tensor"])
def test_families(plan: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Outputs and gradients of the first case of every class."""
    if not request.config.getoption("--all-cases"):
        pytest.skip("with --all-cases")
    for case in CASES:
        if plan == "fsdp" or case.cls not in WITHOUT_PLAN:
            model, given = build(case.cls, case.config, plan == "tensor")
            folder = tmp_path / case.id
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=case.deviation)
            model.save_to_preset(folder)
            inputs = case.make_inputs()
            tensors = (
                {name: torch.from_numpy(value) for name, value in inputs.items()}
                if isinstance(inputs, dict)
                else torch.from_numpy(inputs)
            )
            torch.save((tensors, given), folder / "inputs.pt")
    share(2, tmp_path, plan)


def build(cls: str, config: dict[str, Any], even: bool) -> tuple[Any, dict[str, Any]]:
    """A model, if asked for with numbers of heads and experts that two divide."""
    made = getattr(models, cls)
    for count in (2, 4):
        arguments = _even(config, count) if even else config
        try:
            model = made(**arguments)
        except ValueError:  # heads do not divide the width
            continue
        return model, {k: v for k, v in arguments.items() if k in made.unsaved}
    raise AssertionError(cls)


def _even(config: Any, heads: int) -> Any:
    if not isinstance(config, dict):
        return config
    return {key: _even_number(key, value, heads) for key, value in config.items()}


def _even_number(key: str, value: Any, heads: int) -> Any:
    if not isinstance(value, int) or isinstance(value, bool) or not value % 2:
        return _even(value, heads)
    if key.endswith("key_value_heads"):
        return 2
    if key.endswith("heads"):
        return heads
    return value + 1 if key == "num_experts" else value


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    """Of two processes of which the other one is made up."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    yield init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",))
    dist.destroy_process_group()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_plans(case: Any, mesh: DeviceMesh) -> None:
    with torch.device("meta"):
        model, _ = build(case.cls, case.config, even=True)
    before = sum(parameter.numel() for parameter in model.parameters())
    if case.cls in WITHOUT_PLAN:
        with pytest.raises(ValueError, match=f"{case.cls} has no tensor plan; use plan='fsdp'"):
            Dividing(model, mesh).by_layers()
        return
    Dividing(model, mesh).by_layers()
    here = sum(parameter.to_local().numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == before
    assert here < 0.9 * before
