"""Families of KerasHub's next release equal what its nightly makes of them (`make_nightly.py`)."""

from __future__ import annotations

import functools
import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import keras_hub_torch
from keras_hub_torch.presets import builtin
from keras_hub_torch.presets.keras.tree import flat_layers

from . import oracle, test_families, test_intermediates, test_wrapping
from .conftest import Reference
from .nightly import FIXTURES, nightly_cases, nightly_presets

CASES = {case.id: case for case in nightly_cases()}
FIRSTS = list({case.cls: case.id for case in reversed(CASES.values())}.values())[::-1]
Arrays = dict[str, np.ndarray]


@functools.cache
def reference_of(case_id: str, folder: Path) -> Reference:
    with zipfile.ZipFile(FIXTURES / f"{case_id}.zip") as archive:
        archive.extractall(folder / case_id)
    preset = folder / case_id / "preset"
    arrays = arrays_of(preset)
    inputs = of(arrays, "inputs")
    return Reference(CASES[case_id], None, preset, inputs, of(arrays, "outputs"))


def arrays_of(preset: Path) -> Arrays:
    return dict(np.load(preset.parent / "arrays.npz"))


def of(arrays: Arrays, prefix: str) -> Arrays:
    start = f"{prefix}/"
    return {k.removeprefix(start): value for k, value in arrays.items() if k.startswith(start)}


@pytest.fixture(params=CASES)
def later(request: pytest.FixtureRequest, preset_folder: Path) -> Reference:
    return reference_of(request.param, preset_folder)


@pytest.fixture(params=FIRSTS)
def later_first(request: pytest.FixtureRequest, preset_folder: Path) -> Reference:
    return reference_of(request.param, preset_folder)


def test_the_cases_draw_the_same_inputs(later: Reference) -> None:
    for name, value in oracle.flat(later.case.make_inputs()).items():
        np.testing.assert_array_equal(value, later.inputs[name])


def test_outputs(later: Reference) -> None:
    test_families.test_outputs(later)


def test_gradients(later: Reference) -> None:
    model = later.load(trainable=True)
    rng = later.case.rng
    result = test_families.run(model, later.inputs)
    sum(
        (result[name] * torch.from_numpy(rng.standard_normal(value.shape).astype("float32"))).sum()
        for name, value in later.outputs.items()
    ).backward()
    test_families.assert_gradients_in(later.preset.parent / "gradients.weights.h5", model)


def test_saved_files(later: Reference, tmp_path: Path) -> None:
    model = later.load()
    model.save_to_preset(tmp_path)
    for name in ("config.json", "metadata.json"):
        theirs = json.loads((later.preset / name).read_text())
        mine = json.loads((tmp_path / name).read_text())
        for changing in ("date_saved", "keras_hub_version"):
            theirs.pop(changing, None), mine.pop(changing, None)
        assert mine == theirs
    weights = "model.weights.h5"
    assert test_families.dump(tmp_path / weights) == test_families.dump(later.preset / weights)
    again = type(model).from_config(json.loads(json.dumps(model.get_config())))
    assert again.get_config() == model.get_config()
    metadata = json.loads((later.preset / "metadata.json").read_text())
    assert again.count_params() == metadata["parameter_count"]


def test_initial_values(later_first: Reference) -> None:
    model = later_first.load(load_weights=False)
    test_families.assert_drawn_alike(model, later_first.preset.parent / "initial.weights.h5")


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16", "float16"])
def test_rounding(later_first: Reference, policy: str) -> None:
    """As in `test_families.py`: errors no larger than Keras's, in float16 smaller by far."""
    exact, model = later_first.load(), later_first.load(dtype=policy)
    known = "bfloat16" if policy == "float16" else policy
    errors = of(arrays_of(later_first.preset), f"errors/{known}")
    mine = dict.fromkeys(errors, 0.0)
    with torch.no_grad():
        for inputs in oracle.draws(later_first.case, later_first.outputs):
            rounded, wanted = oracle.named(model(inputs)), oracle.named(exact(inputs))
            for name, value in wanted.items():
                mine[name] += np.square(rounded[name] - value).mean()
    for name, error in errors.items():
        limit = error / 8 if policy == "float16" else 1.25**2 * error
        assert math.isfinite(mine[name])
        assert mine[name] <= limit, name


@pytest.mark.parametrize("order", ["torch", "tensorflow"])
def test_lora(later: Reference, order: str, tmp_path: Path) -> None:
    """The files of both orders of layers, on every layer that takes LoRA, and back again."""
    folder = later.preset.parent
    theirs = folder / f"{order}.lora.h5"
    model = later.load()
    names = json.loads((folder / "layers.json").read_text())[order]
    assert [layer.name for layer in flat_layers(model, "torch" if order == "torch" else "jax")] == (
        names
    )
    model.load_lora_weights(theirs)
    with torch.no_grad():
        oracle.assert_close(model(later.inputs), of(arrays_of(later.preset), f"lora/{order}"), 1e-4)
    path = tmp_path / "x.lora.h5"
    model.save_lora_weights(path, **({"order": "torch"} if order == "torch" else {}))
    with h5py.File(path) as mine, h5py.File(theirs) as file:
        assert sorted(mine["lora"]) == sorted(file["lora"])
        for index in mine["lora"].keys() - {"vars"}:
            for name, value in mine[f"lora/{index}/vars"].items():
                np.testing.assert_array_equal(value[()], file[f"lora/{index}/vars/{name}"][()])


CHECKS: list[Callable[[Reference], Any]] = [
    test_families.test_ways_to_call,
    test_families.test_masks_of_ones_may_be_left_out,
    test_families.test_compiles_once,
    test_intermediates.test_every_family,
    test_wrapping.test_linear_layers_are_linear,
    test_wrapping.test_adapted_layers_are_no_linear_layers,
    test_wrapping.test_peft_on_all_linear_layers,
    test_wrapping.test_layers_are_frozen_as_in_keras,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_as_every_family(later_first: Reference, check: Callable[[Reference], Any]) -> None:
    check(later_first)


def test_export(later_first: Reference, request: pytest.FixtureRequest) -> None:
    test_families.test_export(later_first, request)


def test_safetensors(later_first: Reference, tmp_path: Path) -> None:
    test_families.test_safetensors(later_first, tmp_path)


def test_by_its_name(later_first: Reference) -> None:
    assert hasattr(keras_hub_torch.models, later_first.case.cls)


PRESETS = nightly_presets()


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_sizes(preset: str) -> None:
    """As many parameters as the registry says; of DiffusionGemma it counts those that train."""
    cls = getattr(keras_hub_torch.models, str(builtin.class_of(preset)))
    with torch.device("meta"):
        model = cls(**PRESETS[preset])
    trained = sum(parameter.numel() for parameter in model.parameters())
    found = trained if cls.__name__ == "DiffusionGemmaBackbone" else model.count_params()
    assert found == builtin.presets_of()[preset]["metadata"]["params"]


def test_every_preset_has_a_size() -> None:
    assert PRESETS.keys() == {name for name in builtin.presets_of() if builtin.version_of(name)}
