"""What coming families are made of can be said: toy families, each in new files only, have the
files and the numbers of a Keras model of the same structure.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import keras
import keras_hub
import numpy as np
import pytest
import torch

from keras_hub_torch.presets.keras.tree import keras_tree, keras_variables

from . import oracle
from .test_families import dump
from .toys import clip, dense_net, sam, vae

RNG = np.random.default_rng(0)
TOYS: dict[str, tuple[ModuleType, str, dict[str, Any]]] = {
    "dense_net": (dense_net, "ToyDenseNetBackbone", {"images": (2, 5, 7, 3)}),
    "clip": (clip, "ToyCLIPBackbone", {"images": (4, 6), "token_ids": (3, 5)}),
    "sam": (sam, "ToySAMBackbone", {"images": (2, 3, 4), "labels": (2, 4)}),
    "vae": (vae, "ToyDiffusionBackbone", {"images": (2, 5, 4, 3)}),
}


@pytest.fixture(params=TOYS)
def toy(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any, Any]:
    """Ours with the weights of Keras's, Keras's, and inputs."""
    module, name, shapes = TOYS[request.param]
    keras.utils.clear_session()
    reference = module.keras_model(**module.CONFIG)
    oracle.randomise(reference, np.random.default_rng(1))
    reference.save_weights(str(tmp_path / "theirs.weights.h5"))
    model = getattr(module, name)(**module.CONFIG).eval()
    model.load_weights(tmp_path / "theirs.weights.h5")
    inputs: Any = {
        key: RNG.integers(0, 2, shape).astype("int32")
        if key in ("token_ids", "labels")
        else RNG.standard_normal(shape).astype("float32")
        for key, shape in shapes.items()
    }
    return model, reference, inputs if len(inputs) > 1 else inputs["images"]


def test_files_and_outputs(toy: tuple[Any, Any, Any], tmp_path: Path) -> None:
    model, reference, inputs = toy
    expected = oracle.keras_outputs(reference, inputs)
    with torch.no_grad():
        oracle.assert_close(model(inputs), expected)
    model.save_weights(tmp_path / "ours.weights.h5")
    mine, theirs = dump(tmp_path / "ours.weights.h5"), dump(tmp_path / "theirs.weights.h5")
    assert mine.keys() == theirs.keys()
    for path in theirs:
        assert mine[path] == theirs[path], path
    oracle.randomise(reference, np.random.default_rng(2))
    reference.load_weights(str(tmp_path / "ours.weights.h5"))
    for name, value in oracle.keras_outputs(reference, inputs).items():
        np.testing.assert_array_equal(value, expected[name])


def test_presets(toy: tuple[Any, Any, Any], tmp_path: Path) -> None:
    """A folder is read again by the class itself, models within the model included."""
    model, _, inputs = toy
    model.save_to_preset(tmp_path / "saved")
    again = type(model).from_preset(tmp_path / "saved")
    assert again.get_config() == model.get_config()
    with torch.no_grad():
        oracle.assert_close(again(inputs), oracle.named(model(inputs)))


def test_names(toy: tuple[Any, Any, Any]) -> None:
    """Layers with weights have Keras's names, in the order of Keras's graph."""
    model, reference, _ = toy
    top = [layer.name for layer in keras_tree(model).children]
    assert top == [layer.name for layer in reference.layers if layer.weights]
    for name in top:
        assert model.get_layer(name) is not None


def test_flattened_alone(tmp_path: Path) -> None:
    """What is flattened within another graph is a graph of its own elsewhere."""
    encoder = sam.ToyViTDetBackbone(hidden_dim=5)
    encoder.save_weights(tmp_path / "x.weights.h5")
    with h5py.File(tmp_path / "x.weights.h5") as file:
        assert sorted(file["layers"]) == ["dense", "dense_1", "layer_normalization"]
    assert list(keras_variables(encoder))[:2] == ["layers/dense/vars/0", "layers/dense/vars/1"]


KERAS_MODELS = {
    "bert": lambda: keras_hub.models.BertBackbone(37, 2, 2, 12, 20, max_sequence_length=17),
    "resnet": lambda: keras_hub.models.ResNetBackbone(
        [64], [7], [64, 64], [1, 2], [1, 2], "bottleneck_block", image_shape=(None, None, 3)
    ),
    "dense_net": lambda: keras_hub.models.DenseNetBackbone(
        stackwise_num_repeats=[2, 3], image_shape=(None, None, 3), growth_rate=4
    ),
}


@pytest.mark.parametrize("name", KERAS_MODELS)
@pytest.mark.parametrize("in_shards", [False, True])
def test_kerashub_needs_no_groups_of_layers_without_weights(
    name: str, in_shards: bool, tmp_path: Path
) -> None:
    keras.utils.clear_session()
    model = KERAS_MODELS[name]()
    oracle.randomise(model, np.random.default_rng(1))
    size = {"bert": 1e-5, "resnet": 3e-4, "dense_net": 4e-5}[name]
    model.save_to_preset(str(tmp_path), **({"max_shard_size": size} if in_shards else {}))
    files = list(tmp_path.glob("*.h5"))
    assert (len(files) > 1) is in_shards
    removed = sum(map(without_empty_groups, files))
    assert removed
    again = keras_hub.models.Backbone.from_preset(str(tmp_path))
    for mine, weight in zip(again.weights, model.weights):
        np.testing.assert_array_equal(mine.numpy(), weight.numpy())


def without_empty_groups(path: Path) -> int:
    """Take the groups that hold no dataset, at any depth, out of a file."""
    with h5py.File(path, "a") as file:
        groups: list[str] = []
        file.visititems(lambda name, item: groups.append(name) if is_empty(item) else None)
        for name in groups:
            if name in file:
                del file[name]
        return len(groups)


def is_empty(item: Any) -> bool:
    found: list[str] = []
    if isinstance(item, h5py.Group):
        item.visititems(
            lambda name, inner: found.append(name) if isinstance(inner, h5py.Dataset) else None
        )
    return isinstance(item, h5py.Group) and not found
