"""Built-in presets in their true sizes: layers, names and shapes of all weights are KerasHub's.

Nothing is loaded or computed; both models are on the meta device. KerasHub is asked for the
smallest preset of each class, with `--all-cases` for all of them. What it said of each is kept as a
digest in a file; `KERAS_BACKEND=torch python -m keras_hub_torch.tests.test_preset_sizes` adds what
it lacks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
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
DIGESTS = Path(__file__).parent / "fixtures" / "preset_layers.json"

Shape = tuple[int, ...]


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
            chosen = [min(ids, key=parameters_of) for ids in of_class.values()]
        metafunc.parametrize("architecture", chosen)


def model_of(preset_id: str) -> Any:
    with torch.device("meta"):
        cls = builtin.class_of(preset_id)
        return getattr(keras_hub_torch.models, str(cls))(**PRESETS[preset_id])


def layers_of(model: Any) -> tuple[dict[str, Shape], dict[str, str]]:
    """Paths of variables → shapes, in order, and of layers → names."""
    shapes = {path: tuple(variable.shape) for path, variable in keras_variables(model).items()}
    names = {layer.path: layer.name for layer in keras_tree(model).walk() if layer.variables}
    return shapes, names


def layers_in_kerashub(preset_id: str) -> tuple[dict[str, Shape], dict[str, str]]:
    layers = kerashub_layers(str(builtin.class_of(preset_id)), PRESETS[preset_id]).layers
    shapes = {
        f"{path}/vars/{i}".lstrip("/"): tuple(variable.shape)
        for path, (_, variables) in layers.items()
        for i, variable in variables.items()
    }
    return shapes, {path: name for path, (name, variables) in layers.items() if variables}


def digest(shapes: Mapping[str, Shape], names: Mapping[str, str]) -> str:
    text = json.dumps([list(shapes.items()), sorted(names.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("preset_id", ARCHITECTURES)
def test_parameters(preset_id: str) -> None:
    model = model_of(preset_id)
    for same in ARCHITECTURES[preset_id]:
        assert model.count_params() == parameters_of(same), same
    assert digest(*layers_of(model)) == json.loads(DIGESTS.read_text())[preset_id]


def test_architecture(architecture: str) -> None:
    theirs, their_names = layers_in_kerashub(architecture)
    ours, names = layers_of(model_of(architecture))
    assert list(ours.items()) == list(theirs.items())
    assert names == their_names


def test_every_preset_of_a_class_is_listed() -> None:
    classes = {builtin.class_of(preset_id) for preset_id in PRESETS}
    listed = {
        preset_id for preset_id in builtin.presets_of() if builtin.class_of(preset_id) in classes
    }
    assert PRESETS.keys() == listed


if __name__ == "__main__":
    known = json.loads(DIGESTS.read_text()) if DIGESTS.exists() else {}
    digests = {name: known.get(name) or digest(*layers_in_kerashub(name)) for name in ARCHITECTURES}
    DIGESTS.write_text(json.dumps(digests, indent=0, sort_keys=True) + "\n")
