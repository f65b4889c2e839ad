"""What must hold for every family: equality with KerasHub, files, training, compilation."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py
import keras
import keras_hub
import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

import keras_hub_torch
from keras_hub_torch.backbones._configuration import constructor_arguments
from keras_hub_torch.backbones._model import Model
from keras_hub_torch.presets.keras.tree import keras_tree, keras_variables

from . import oracle
from .conftest import Reference, reference_of, takes_images

Backbone = keras_hub_torch.models.Backbone


def ours(reference: Reference, **kwargs: Any) -> Any:
    return reference.load(**kwargs)


def run(model: Any, inputs: Any) -> dict[str, torch.Tensor]:
    return oracle.flat(model(inputs))


def dump(path: Path) -> dict[str, Any]:
    """Every dataset of a file with its attributes, type and bytes, and those of its group."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            content = (item.shape, item.dtype, item[()].tobytes())
            found[name] = (dict(item.attrs), dict(item.parent.attrs), content)

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_outputs(reference: Reference) -> None:
    model = ours(reference)
    assert type(model).__name__ == reference.case.cls
    assert not model.training
    with torch.no_grad():
        oracle.assert_close(model(reference.inputs), reference.outputs)


def test_ways_to_call(chosen: Reference) -> None:
    model = ours(chosen)
    inputs = chosen.tensors
    with torch.no_grad():
        expected = run(model, inputs)
        if isinstance(inputs, dict):
            calls = [model(**inputs), model({**inputs, "targets": torch.zeros(1)})]
        else:
            calls = [model(chosen.inputs), model(**{next(iter(model.input_specs)): inputs})]
    for outputs in calls:
        for name, value in oracle.flat(outputs).items():
            assert torch.equal(value, expected[name])


def test_pyramid(first: Reference) -> None:
    if not hasattr(first.model, "pyramid_outputs"):
        pytest.skip("no feature pyramid")
    model = ours(first)
    assert list(model.pyramid_outputs) == list(first.model.pyramid_outputs)
    theirs = keras.Model(first.model.inputs, first.model.pyramid_outputs)
    expected = oracle.keras_outputs(theirs, first.inputs)
    with torch.no_grad():
        outputs = model.pyramid_outputs(first.inputs)
        name = list(model.pyramid_outputs)[1]
        one = model.pyramid_outputs[name](first.inputs)
    oracle.assert_close(outputs, expected)
    assert torch.equal(one, outputs[name])
    axis = 1 if getattr(model, "data_format", None) == "channels_first" else -1
    for level in model.levels:
        assert outputs[level.name].shape[axis] == level.channels
    with pytest.raises(KeyError):
        model.pyramid_outputs["P9"]


def test_masks_of_ones_may_be_left_out(chosen: Reference) -> None:
    model = ours(chosen)
    if not isinstance(chosen.inputs, dict):
        pytest.skip("images have no mask")
    full = {
        name: torch.ones_like(value) if name.endswith("padding_mask") else value
        for name, value in chosen.tensors.items()
    }
    without = {name: v for name, v in full.items() if not name.endswith("padding_mask")}
    with torch.no_grad():
        oracle.assert_close(model(without), oracle.named(model(full)))


def test_gradients(chosen: Reference, tmp_path: Path) -> None:
    rng = chosen.case.rng
    outer = {
        name: rng.standard_normal(value.shape).astype("float32")
        for name, value in chosen.outputs.items()
    }
    keras_model = oracle.keras_model(chosen.case, trainable=True)
    outputs = oracle.flat(oracle.called(keras_model, chosen.inputs))
    sum((outputs[name] * torch.from_numpy(outer[name])).sum() for name in outer).backward()

    model = ours(chosen, trainable=True)
    result = run(model, chosen.inputs)
    sum((result[name] * torch.from_numpy(outer[name])).sum() for name in outer).backward()
    assert_gradients_close(model, keras_model, tmp_path / "gradients.weights.h5")


def assert_gradients_close(model: Any, keras_model: Any, path: Path) -> None:
    oracle.save_gradients(keras_model, path)
    assert_gradients_in(path, model)


def assert_gradients_in(path: Path, model: Any) -> None:
    """The file has a Keras model's gradients in the place of its weights."""
    # Keras finds no gradient for what stands beside the graph.
    known = {layer.path for layer in keras_tree(model).walk() if not layer.layout.rest}
    variables = {
        path: variable
        for path, variable in keras_variables(model).items()
        if path.partition("/vars/")[0] in known
    }
    with h5py.File(path) as file:
        largest = max(np.abs(file[path][()]).max() for path in variables)
        for path, variable in variables.items():
            if not isinstance(variable.tensor, torch.nn.Parameter):
                continue
            gradient = variable.tensor.grad
            theirs = file[path][()]
            mine = np.zeros_like(theirs)
            if gradient is not None:
                mine = variable.to_keras(gradient).numpy()
            assert np.isfinite(mine).all(), path
            # What is zero but for rounding is compared with the gradients beside it: the limit is
            # then 1e-6 of the largest, eight units in the last place of a float32.
            scale = max(np.abs(theirs).max(), 1e-2 * largest)
            assert np.abs(mine - theirs).max() <= 1e-4 * scale, path


def test_saved_files_equal_kerashubs(reference: Reference, tmp_path: Path) -> None:
    model = ours(reference)
    model.save_to_preset(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == sorted(
        path.name for path in reference.preset.iterdir()
    )
    theirs = json.loads((reference.preset / "config.json").read_text())
    mine = json.loads((tmp_path / "saved" / "config.json").read_text())
    for name in model.unsaved.keys() - theirs["config"].keys():
        mine["config"].pop(name, None)
    assert mine == theirs
    theirs = json.loads((reference.preset / "metadata.json").read_text())
    mine = json.loads((tmp_path / "saved" / "metadata.json").read_text())
    del mine["date_saved"], theirs["date_saved"]
    assert mine == theirs
    assert dump(tmp_path / "saved" / "model.weights.h5") == dump(
        reference.preset / "model.weights.h5"
    )
    loaded = keras_hub.models.Backbone.from_preset(str(tmp_path / "saved"))
    outputs = oracle.keras_outputs(loaded, reference.inputs)
    for name, value in reference.outputs.items():
        np.testing.assert_array_equal(outputs[name], value)


def test_config(reference: Reference) -> None:
    model = ours(reference)
    config = json.loads(json.dumps(model.get_config()))
    again = type(model).from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config
    assert again.count_params() == model.count_params() == reference.model.count_params()
    assert again.training
    assert again.name == reference.case.config.get("name", model.name)
    theirs = json.loads(json.dumps(reference.model.get_config()))
    for name in constructor_arguments(type(model)):
        assert hasattr(again, name), name
        given = reference.case.config.get(name, again)
        if isinstance(given, (int, float, str, list)) and name != "dtype":
            # A number for both sides is kept as a pair, a part as Keras serializes it.
            found = (given, getattr(reference.model, name, given), theirs.get(name))
            assert getattr(again, name) in found, name


def test_safetensors(first: Reference, tmp_path: Path) -> None:
    model = ours(first)
    model.save_to_preset(tmp_path, format="safetensors")
    again = Backbone.from_preset(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_initial_values(first: Reference, tmp_path: Path) -> None:
    theirs = type(first.model)(**first.case.keras_config)
    theirs.save_weights(str(tmp_path / "x.weights.h5"))
    assert_drawn_alike(ours(first, load_weights=False), tmp_path / "x.weights.h5")


def assert_drawn_alike(model: Any, path: Path) -> None:
    """Each weight comes from the distribution Keras draws it from: Kolmogorov–Smirnov, and the
    standard deviation; by chance either fails once in ten million.
    """
    with h5py.File(path) as file:
        for path, variable in keras_variables(model).items():
            reference = np.sort(file[path][()].ravel())
            mine = np.sort(variable.to_keras(variable.tensor).detach().numpy().ravel())
            if not variable.tensor.is_floating_point():
                # Numbers of positions, which KerasHub's CLIP does not count.
                np.testing.assert_array_equal(mine, np.arange(len(mine)))
                continue
            if reference[0] == reference[-1]:
                np.testing.assert_array_equal(mine, reference)
                continue
            both = np.concatenate([mine, reference])
            distance = np.abs(
                np.searchsorted(mine, both, "right") - np.searchsorted(reference, both, "right")
            ).max()
            n = len(mine)
            assert distance / n <= math.sqrt(-math.log(1e-7 / 2) / n), path
            if n > 200:
                # The logarithm of two samples' ratio varies by 1/sqrt(n) for a normal
                # distribution, by less for the others; 5.33 of that is 1e-7 again.
                ratio = math.log(mine.std() / reference.std())
                assert abs(ratio) <= 5.33 / math.sqrt(n), path


@functools.cache
def rounding_errors(reference: Reference, policy: str) -> tuple[dict[str, float], ...]:
    """Squared error of Keras and of ours under a policy, over enough inputs for a mean."""
    known = policy if reference.case.mixed else policy.removeprefix("mixed_")
    theirs = oracle.keras_model(reference.case, dtype=known)
    model = ours(reference, dtype=policy)
    draws = oracle.draws(reference.case, reference.outputs)
    errors: tuple[dict[str, float], ...] = ({}, {})
    for inputs in draws:
        exact = oracle.keras_outputs(reference.model, inputs)
        with torch.no_grad():
            rounded = oracle.keras_outputs(theirs, inputs), oracle.named(model(inputs))
        for error, outputs in zip(errors, rounded):
            for name, value in exact.items():
                assert np.isfinite(outputs[name]).all()
                error[name] = error.get(name, 0.0) + np.square(outputs[name] - value).mean()
    return errors


def test_bfloat16(chosen: Reference) -> None:
    """Our rounding errors are no larger than Keras's."""
    theirs, mine = rounding_errors(chosen, "bfloat16")
    for name, error in theirs.items():
        assert math.sqrt(mine[name]) <= 1.25 * math.sqrt(error), name


def test_mixed_precision(first: Reference) -> None:
    theirs, mine = rounding_errors(first, "mixed_bfloat16")
    for name, error in theirs.items():
        assert math.sqrt(mine[name]) <= 1.25 * math.sqrt(error), name
    model = ours(first, dtype="mixed_bfloat16")
    assert model.dtype == torch.float32
    assert model.dtype_policy.name == "mixed_bfloat16"
    outputs = run(model, first.inputs)
    # What is counted is in float32 or an integer.
    assert {y.dtype for y in outputs.values() if y.requires_grad} == {torch.bfloat16}
    sum(value.float().sum() for value in outputs.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


def test_float16(first: Reference) -> None:
    """Finite, and nearer to float32 than Keras in bfloat16. (Keras in float16 can give NaN.)"""
    theirs, _ = rounding_errors(first, "bfloat16")
    model = ours(first, dtype="float16")
    with torch.no_grad():
        outputs = oracle.named(model(first.inputs))
    for name, exact in first.outputs.items():
        error = np.square(outputs[name] - exact).mean()
        assert error <= theirs[name] / 8, name


def takes_one_size(model: Any) -> bool:
    """Whether its images must be of one size."""
    fixed = any(isinstance(module, Model) and module.resampled for module in model.modules())
    shape = getattr(model, "latent_shape", (None,))
    return fixed or None not in getattr(model, "image_shape", shape)


def images_of_one_size(model: Any) -> set[str]:
    """Inputs that vary in nothing but their number."""
    fixed = takes_one_size(model)
    return {name for name, spec in model.input_specs.items() if fixed and "length" not in spec.axes}


def several(model: Any) -> set[str]:
    """Inputs of which a row has several, of any length: their third axis is what varies."""
    return {
        name
        for name, spec in model.input_specs.items()
        if spec.axes[1:3] in (("images", "patches"), ("clips", "frames"))
    }


def grown(
    inputs: Any, times: int, fixed: Collection[str] = (), many: Collection[str] = (), name: str = ""
) -> Any:
    """Inputs of another batch size and length (or image size)."""
    if isinstance(inputs, dict):
        return {
            name: batches(value, times) if name in fixed else grown(value, times, (), many, name)
            for name, value in inputs.items()
        }
    repeats = (times, times, *[1] * (inputs.ndim - 2))
    if name in many:
        repeats = (times, 1, times, *[1] * (inputs.ndim - 3))
    elif inputs.ndim == 4 and name in ("", "images"):
        repeats = (times, 1, times, 1) if inputs.shape[-1] < 9 else (times, 1, 1, times)
    return inputs.repeat(*repeats)


def test_compiles_once(first: Reference) -> None:
    torch._dynamo.reset()
    counters.clear()
    model = ours(first)
    rooms = [getattr(part, "max_sequence_length", None) for part in model.modules()]
    longest = min((room for room in rooms if isinstance(room, int)), default=2 * 9)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    fixed = images_of_one_size(model)
    steady = fixed.union(first.case.steady)
    many = several(model) - steady
    sizes = [first.tensors, shrunk(first.tensors, steady, many)]
    if isinstance(first.tensors, torch.Tensor) and (fixed or first.tensors.ndim == 2):
        # One size of images (or of vectors), any number of them.
        sizes = [first.tensors, *(batches(first.tensors, many) for many in (3, 2))]
    elif longest >= 2 * 9:
        sizes.append(grown(first.tensors, 2, fixed, many))
    else:
        sizes.append(shrunk(shrunk(first.tensors, steady, many), steady, many))
    with torch.no_grad():
        for inputs in sizes:
            oracle.assert_close(compiled(inputs), oracle.named(model(inputs)))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def batches(inputs: Any, many: int) -> Any:
    if isinstance(inputs, dict):
        return {name: batches(value, many) for name, value in inputs.items()}
    return inputs.repeat(many, *[1] * (inputs.ndim - 1))


def shrunk(
    inputs: Any, fixed: Collection[str] = (), many: Collection[str] = (), name: str = ""
) -> Any:
    """Inputs of a smaller batch and length; those that are `fixed` of a smaller batch alone."""
    if isinstance(inputs, dict):
        return {name: shrunk(value, fixed, many, name) for name, value in inputs.items()}
    batch = max(2, inputs.shape[0] - 1) if inputs.shape[0] > 1 else 2
    if inputs.shape[0] == 1:
        inputs = batches(inputs, 2)
    if name in fixed:
        return inputs[:batch]
    third = inputs.ndim == 4 or name in many
    inputs = inputs[:batch, :, 4:] if third else inputs[:batch, :-2]
    return inputs.contiguous()  # other strides are another compilation


def test_inductor(preset_folder: Path) -> None:
    """The default compiler, with gradients; models of images are in `test_images.py`."""
    torch._dynamo.reset()
    reference = reference_of("gemma2", preset_folder)
    model = ours(reference)
    compiled = torch.compile(model, fullgraph=True)
    outputs = run(compiled, reference.tensors)
    with torch.no_grad():
        oracle.assert_close(outputs, oracle.named(run(model, reference.tensors)))
    sum(value.float().sum() for value in outputs.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_export(first: Reference, request: pytest.FixtureRequest) -> None:
    if takes_images(first.case) and not request.config.getoption("--all-cases"):
        pytest.skip("test_images.py has it, over all sizes")
    model = ours(first)
    inputs = first.tensors
    dynamic = torch.export.Dim.AUTO
    if isinstance(inputs, dict):
        fixed = images_of_one_size(model).union(first.case.steady)
        many = several(model)
        shapes = {
            name: {0: dynamic} if name in fixed else {0: dynamic, 1 + (name in many): dynamic}
            for name in inputs
        }
        program = torch.export.export(model, (), inputs, dynamic_shapes=shapes)
        smaller = shrunk(inputs, fixed, many)
        outputs = program.module()(**smaller)
    else:
        name = next(iter(model.input_specs))
        shapes = {name: {0: dynamic}}
        program = torch.export.export(model, (), {name: batches(inputs, 2)}, dynamic_shapes=shapes)
        smaller = batches(inputs, 3)
        outputs = program.module()(**{name: smaller})
    with torch.no_grad():
        oracle.assert_close(outputs, oracle.named(run(model, smaller)))
