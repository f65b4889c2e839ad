"""Presets that KerasNLP 0.12.1 saved, before it became KerasHub (`fixtures/make_old.py`)."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import keras_hub_torch
from keras_hub_torch.backbones._registry import find_class

from . import oracle

Backbone = keras_hub_torch.models.Backbone
FOLDERS = sorted((Path(__file__).parent / "fixtures" / "old").iterdir())


def class_of(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    package, _, name = config["registered_name"].partition(">")
    assert package == "keras_nlp"
    return str(name)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_outputs(folder: Path) -> None:
    if find_class(class_of(folder), Backbone) is None:
        with pytest.raises(NotImplementedError, match=f"{class_of(folder)}.* not part of"):
            Backbone.from_preset(folder)
        return
    stored = dict(np.load(folder / "inputs_outputs.npz"))
    inputs = {key[7:]: value for key, value in stored.items() if key.startswith("inputs/")}
    outputs = {key[8:]: value for key, value in stored.items() if key.startswith("outputs/")}
    with h5py.File(folder / "model.weights.h5") as file:
        attributes: list[str] = []
        file.visititems(lambda path, item: attributes.extend(item.attrs))
    assert not attributes  # no layer is named yet
    model = Backbone.from_preset(folder)
    assert type(model).__name__ == class_of(folder)
    assert "rope_scaling_factor" not in model.get_config()
    with torch.no_grad():
        oracle.assert_close(model(inputs), outputs or {"output": stored["outputs"]})


@pytest.mark.parametrize("folder", FOLDERS[:3], ids=lambda folder: folder.name)
def test_saved_again(folder: Path, tmp_path: Path) -> None:
    """The new files hold the same weights and the configuration's new keys."""
    model = Backbone.from_preset(folder)
    model.save_to_preset(tmp_path)
    again = Backbone.from_preset(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    old = json.loads((folder / "config.json").read_text())["config"]
    new = json.loads((tmp_path / "config.json").read_text())
    assert new["registered_name"] == f"keras_hub>{type(model).__name__}"
    assert {key: new["config"][key] for key in old if key != "dtype"} == {
        key: value for key, value in old.items() if key != "dtype"
    }


def test_layers_under_their_older_name(tmp_path: Path) -> None:
    """Keras before 3.0 kept layers in `_layer_checkpoint_dependencies`."""
    model = Backbone.from_preset(FOLDERS[0])
    model.save_to_preset(tmp_path)
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        file.move("layers", "_layer_checkpoint_dependencies")
    again = Backbone.from_preset(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        file.copy("_layer_checkpoint_dependencies", "layers")
    with pytest.raises(ValueError, match="superfluous: _layer_checkpoint_dependencies/"):
        Backbone.from_preset(tmp_path)


def test_arguments_that_are_gone(tmp_path: Path) -> None:
    """Left out where they change nothing, refused where they would."""
    preset = next(path for path in FOLDERS if path.name == "llama")
    for name in ("config.json", "model.weights.h5"):
        (tmp_path / name).write_bytes((preset / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"]["rope_scaling_factor"] = 2.0
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="rope_scaling_factor"):
        Backbone.from_preset(tmp_path)
