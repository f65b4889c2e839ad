"""Built-in presets in their true sizes: layers, names and shapes of all weights are KerasHub's.

Nothing is loaded or computed; both models are on the meta device. KerasHub is asked for the first
and the largest preset of each class, with `--all-cases` for all of them.
"""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import keras
import keras_hub
import numpy as np
import pytest
import torch
from keras.src.saving import saving_lib

import keras_hub_torch
from keras_hub_torch.presets import builtin
from keras_hub_torch.presets.keras.tree import keras_tree, keras_variables

from .cases import all_miscounted, all_presets
from .oracle import models_built

PRESETS = all_presets()
MISCOUNTED = all_miscounted()


def architectures() -> dict[str, list[str]]:
    """The first of the presets with equal arguments → all of them."""
    alike: dict[str, list[str]] = {}
    for preset_id, config in PRESETS.items():
        key = json.dumps((builtin.class_of(preset_id), config), sort_keys=True)
        alike.setdefault(key, []).append(preset_id)
    return {ids[0]: ids for ids in alike.values()}


ARCHITECTURES = architectures()


class Shapes(saving_lib.H5IOStore):  # type: ignore[misc]
    """Stands for a weight file, and keeps what Keras would write: path of a layer → its name and
    its variables.
    """

    def __init__(self) -> None:
        self.layers: dict[str, tuple[str, dict[str, Any]]] = {}

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: dict[str, str] | None = None) -> dict[str, Any]:
        variables: dict[str, Any] = {}
        self.layers[path] = ((metadata or {}).get("name", ""), variables)
        return variables


def kerashub_layers(cls: str, config: dict[str, Any]) -> Shapes:
    keras.utils.clear_session()
    # Rates are numbers where tensors have no values.
    with keras.device("meta"), mock.patch.object(keras.ops, "linspace", np.linspace):
        model = getattr(keras_hub.models, cls)(**models_built(config))
    shapes = Shapes()
    saving_lib._save_state(model, shapes, None, "", set())
    return shapes


def parameters_of(preset_id: str) -> int:
    count: int = builtin.presets_of()[preset_id]["metadata"]["params"]
    return count - MISCOUNTED.get(preset_id, 0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "architecture" in metafunc.fixturenames:
        chosen = list(ARCHITECTURES)
        if not metafunc.config.getoption("--all-cases"):
            of_class: dict[str | None, list[str]] = {}
            for preset_id in ARCHITECTURES:
                of_class.setdefault(builtin.class_of(preset_id), []).append(preset_id)
            few = {i for ids in of_class.values() for i in (ids[0], max(ids, key=parameters_of))}
            chosen = [preset_id for preset_id in ARCHITECTURES if preset_id in few]
        metafunc.parametrize("architecture", chosen)


def model_of(preset_id: str) -> Any:
    with torch.device("meta"):
        cls = builtin.class_of(preset_id)
        return getattr(keras_hub_torch.models, str(cls))(**PRESETS[preset_id])


@pytest.mark.parametrize("preset_id", ARCHITECTURES)
def test_parameters(preset_id: str) -> None:
    count = model_of(preset_id).count_params()
    for same in ARCHITECTURES[preset_id]:
        assert count == parameters_of(same), same


def test_architecture(architecture: str) -> None:
    model, cls = model_of(architecture), str(builtin.class_of(architecture))
    layers = kerashub_layers(cls, PRESETS[architecture]).layers
    theirs = {
        f"{path}/vars/{i}".lstrip("/"): tuple(variable.shape)
        for path, (_, variables) in layers.items()
        for i, variable in variables.items()
    }
    ours = {path: variable.shape for path, variable in keras_variables(model).items()}
    assert list(ours.items()) == list(theirs.items())
    names = {path: name for path, (name, variables) in layers.items() if variables}
    named = {layer.path: layer.name for layer in keras_tree(model).walk() if layer.variables}
    assert named == names


def test_every_preset_of_a_class_is_listed() -> None:
    classes = {builtin.class_of(preset_id) for preset_id in PRESETS}
    listed = {
        preset_id for preset_id in builtin.presets_of() if builtin.class_of(preset_id) in classes
    }
    assert PRESETS.keys() == listed
