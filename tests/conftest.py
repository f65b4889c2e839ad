from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

import keras_hub_torch

from . import oracle
from .cases import all_cases

# What inductor, which takes its time, compiles by default, and of which few blocks are compiled.
COMPILED = ("resnet-basic", "vgg", "deit")
FEW = ("bert", "gemma3-images", "t5", "vit", "swin", "resnet-basic")
IMAGES = ("first_image", "compiled_image")


@dataclass(eq=False)
class Reference:
    """A case in KerasHub: its model, the preset saved from it, its inputs and outputs."""

    case: oracle.Case
    model: Any
    preset: Path
    inputs: oracle.Inputs
    outputs: dict[str, np.ndarray]

    @property
    def given(self) -> dict[str, Any]:
        """What KerasHub does not save and must be given again."""
        unsaved = getattr(keras_hub_torch.models, self.case.cls).unsaved
        return {key: self.case.config[key] for key in unsaved if key in self.case.config}

    def load(self, **kwargs: Any) -> Any:
        return keras_hub_torch.models.Backbone.from_preset(self.preset, **self.given, **kwargs)

    @property
    def tensors(self) -> Any:
        return oracle.tensors(self.inputs)


@functools.cache
def reference_of(case_id: str, folder: Path) -> Reference:
    case = next(case for case in all_cases() if case.id == case_id)
    model = oracle.keras_model(case)
    inputs = case.make_inputs()
    preset = folder / case_id
    model.save_to_preset(str(preset))
    return Reference(case, model, preset, inputs, oracle.keras_outputs(model, inputs))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Whatever the order and the worker, a test draws the same numbers."""
    oracle.keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def preset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("presets")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-cases", action="store_true", help="all tests over all cases; slow")


def takes_images(case: oracle.Case) -> bool:
    specs = getattr(keras_hub_torch.models, case.cls).input_specs
    return [spec.kind for spec in specs.values()] == ["images"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`reference` runs a test over all cases, `first` over the first one of each family, `chosen`
    over these or, with `--all-cases`, over all; `first_image` over the first ones of those that
    take images and nothing else, `compiled_image` over few of these or, with `--all-cases`, all;
    `compiled` likewise over few of the first ones.
    """
    cases = all_cases()
    if "reference" in metafunc.fixturenames:
        metafunc.parametrize("reference", [case.id for case in cases], indirect=True)
    firsts = list({case.cls: case.id for case in reversed(cases)}.values())[::-1]
    if "first" in metafunc.fixturenames:
        metafunc.parametrize("first", firsts, indirect=True)
    if "first_image" in metafunc.fixturenames:
        images = [case.id for case in cases if case.id in firsts and takes_images(case)]
        metafunc.parametrize("first_image", images, indirect=True)
    if "compiled_image" in metafunc.fixturenames:
        images = [case.id for case in cases if case.id in firsts and takes_images(case)]
        few = [case_id for case_id in images if case_id in COMPILED]
        chosen = images if metafunc.config.getoption("--all-cases") else few
        metafunc.parametrize("compiled_image", chosen, indirect=True)
    if "compiled" in metafunc.fixturenames:
        every = metafunc.config.getoption("--all-cases")
        metafunc.parametrize("compiled", firsts if every else FEW, indirect=True)
    if "chosen" in metafunc.fixturenames:
        every = metafunc.config.getoption("--all-cases")
        chosen = [case.id for case in cases] if every else firsts
        metafunc.parametrize("chosen", chosen, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of one case follow each other, so that one worker has its reference."""

    def case_of(item: pytest.Item) -> str:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        return next(
            (
                params[k]
                for k in ("reference", "chosen", "first", "compiled", *IMAGES)
                if k in params
            ),
            "",
        )

    items.sort(key=case_of)


@pytest.fixture
def reference(request: pytest.FixtureRequest, preset_folder: Path) -> Reference:
    return reference_of(request.param, preset_folder)


@pytest.fixture
def chosen(request: pytest.FixtureRequest, preset_folder: Path) -> Reference:
    return reference_of(request.param, preset_folder)


@pytest.fixture
def first(request: pytest.FixtureRequest, preset_folder: Path) -> Reference:
    return reference_of(request.param, preset_folder)


@pytest.fixture
def compiled(request: pytest.FixtureRequest, preset_folder: Path) -> Reference:
    return reference_of(request.param, preset_folder)


@pytest.fixture
def first_image(request: pytest.FixtureRequest, preset_folder: Path) -> Reference:
    return reference_of(request.param, preset_folder)


@pytest.fixture
def compiled_image(request: pytest.FixtureRequest, preset_folder: Path) -> Reference:
    return reference_of(request.param, preset_folder)


@pytest.fixture
def bert(preset_folder: Path) -> Reference:
    return reference_of("bert", preset_folder)


@pytest.fixture(scope="session")
def on_tensorflow(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], Path]:
    """Runs a script of this folder with KerasHub on TensorFlow, once for all workers: its name →
    the folder it fills.
    """
    common = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        common = common.parent

    def run(name: str) -> Path:
        folder = common / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                script = str(Path(__file__).with_name(f"{name}.py"))
                subprocess.run([sys.executable, script, str(folder)], check=True, timeout=900)
        return folder

    return run
