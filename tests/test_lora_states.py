"""What adapters go through, in every family: casts, int8 weights, switched off, merged, deleted."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import keras_hub_torch
from keras_hub_torch.backbones.layers.core import Dense
from keras_hub_torch.backbones.layers.layout import keras_children
from keras_hub_torch.lora import adapters, layers_named
from keras_hub_torch.lora.adapters import Adapter, adapter_for

from . import oracle
from .conftest import Reference

RANK = 2
Backbone = keras_hub_torch.models.Backbone


def targets(model: Any) -> list[str]:
    """The default layers, or where there are none the first that can be adapted."""
    names: list[str] = model.default_lora_layer_names()
    if layers_named(model, names):
        return [name for name in names if layers_named(model, [name])]
    found: list[str] = []

    def search(module: nn.Module, *seen: Any) -> None:
        for child in keras_children(module, *seen):
            if adapter_for(child.module) is not None:
                found.append(child.name)
            search(child.module, child.layout, child.name)

    search(model)
    return list(dict.fromkeys(found))[1:4]


def enable(model: Any, names: list[str] | None = None, **kwargs: Any) -> Any:
    model.enable_lora(RANK, names or targets(model), **kwargs)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in adapters(model).values():
            for factor in (layer.lora_kernel_a, layer.lora_kernel_b):
                factor.copy_(0.1 * torch.randn(factor.shape, generator=generator))
    return model


def outputs_of(model: Any, inputs: Any) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {k: np.asarray(v.float(), np.float64) for k, v in oracle.flat(model(inputs)).items()}


def trains(model: Any, inputs: Any) -> None:
    values = [v for v in oracle.flat(model(inputs)).values() if v.is_floating_point()]
    # Of one size, for half precision.
    sized = [value.float() / value.detach().abs().max().float() for value in values]
    torch.stack([value.square().mean() for value in sized]).sum().backward()
    factors = [p for p in model.parameters() if p.requires_grad]
    gradients = [p.grad for p in factors if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)


def distance(outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest mean error of an output, in units of its mean size."""
    assert all(np.isfinite(value).all() for value in outputs.values())
    return max(
        float(np.abs(outputs[name] - value).mean() / (np.abs(value).mean() + 1e-9))
        for name, value in expected.items()
    )


CASTS: dict[str, tuple[Callable[[Reference], Any], Callable[[Any], Any]]] = {
    "to(bfloat16)": (lambda ref: ref.load(), lambda model: model.to(torch.bfloat16)),
    "half()": (lambda ref: ref.load(), lambda model: model.half()),
    "double()": (lambda ref: ref.load(), lambda model: model.double()),
    "bfloat16 before": (lambda ref: ref.load(dtype="bfloat16"), lambda model: model),
    "mixed_bfloat16": (lambda ref: ref.load(dtype="mixed_bfloat16"), lambda model: model),
    "mixed, then bfloat16": (
        lambda ref: ref.load(dtype="mixed_bfloat16"),
        lambda model: model.to(torch.bfloat16),
    ),
}


def test_casts(first: Reference) -> None:
    """An adapted model in another dtype is as near to float32 as the same model without LoRA."""
    plain = outputs_of(first.load(), first.inputs)
    expected = outputs_of(enable(first.load()), first.inputs)
    for name, (load, cast) in CASTS.items():
        base = distance(outputs_of(cast(load(first)), first.inputs), plain)
        model = cast(enable(load(first)))
        assert distance(outputs_of(model, first.inputs), expected) <= 2 * base + 0.02, name
        trains(model, first.inputs)
    model = enable(first.load())
    with torch.autocast("cpu", torch.bfloat16):
        base = distance(outputs_of(first.load(), first.inputs), plain)
        assert distance(outputs_of(model, first.inputs), expected) <= 2 * base + 0.02
        trains(model, first.inputs)


def quantized(model: Any, names: list[str]) -> Any:
    """The model with int8 weights in the layers of these names."""
    paths = set(layers_named(model, names))
    model.quantize("int8", filters=lambda layer: layer.key in paths)
    return model


def test_int8(first: Reference, tmp_path: Path) -> None:
    names = [
        name
        for name in targets(first.load())
        if all(
            isinstance(layer, Dense) and len(layer.kernel_shape) - 1 not in layer.kernel_inputs
            for layer in map(first.load().get_submodule, layers_named(first.load(), [name]))
        )
    ]
    if not names:
        pytest.skip("no projection among the layers that are adapted")
    expected = outputs_of(enable(first.load(), names), first.inputs)
    for cast in (None, torch.bfloat16):
        base = outputs_of(first.load(), first.inputs)
        plain = quantized(first.load(), names)
        model = enable(quantized(first.load(), names), names)
        if cast is not None:
            plain, model = plain.to(cast), model.to(cast)
        limit = 2 * distance(outputs_of(plain, first.inputs), base) + 0.02
        assert distance(outputs_of(model, first.inputs), expected) <= limit
        trains(model, first.inputs)
    with torch.autocast("cpu", torch.bfloat16):
        trains(enable(quantized(first.load(), names), names), first.inputs)
    # Adapters for a quantized model travel, and leave it as it was.
    model = enable(quantized(first.load(), names), names)
    model.save_lora_weights(tmp_path / "x.lora.h5")
    again = quantized(first.load(), names)
    before = outputs_of(again, first.inputs)
    again.enable_lora(RANK, names)
    again.load_lora_weights(tmp_path / "x.lora.h5")
    oracle.assert_close(outputs_of(again, first.inputs), outputs_of(model, first.inputs))
    again.delete_lora()
    assert {type(m) for m in again.modules()} == {
        type(m) for m in quantized(first.load(), names).modules()
    }
    oracle.assert_close(outputs_of(again, first.inputs), before, 0.0)


def test_life_cycle(first: Reference, tmp_path: Path) -> None:
    model = first.load()
    inputs, names = first.inputs, targets(model)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    # Frozen as with LoRA, since torch then rounds products with expanded inputs otherwise.
    plain = outputs_of(first.load(trainable=False), inputs)
    enable(model, names)
    adapted = outputs_of(model, inputs)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    # Off, as a block and as a verb.
    with model.disable_lora():
        oracle.assert_close(outputs_of(model, inputs), plain, 0.0)
        with pytest.warns(UserWarning, match="disabled"):
            model.save_weights(tmp_path / "off.safetensors")
        model.save_lora_weights(tmp_path / "off.lora.h5")
        with pytest.raises(ValueError, match="disabled"):
            model.merge_lora()
    oracle.assert_close(outputs_of(model, inputs), adapted, 0.0)
    model.disable_lora()
    with model.disable_lora():
        pass
    oracle.assert_close(outputs_of(model, inputs), plain, 0.0)
    model.enable_lora()
    oracle.assert_close(outputs_of(model, inputs), adapted, 0.0)
    other = first.load()
    other.load_weights(tmp_path / "off.safetensors")
    oracle.assert_close(outputs_of(other.requires_grad_(False), inputs), plain, 0.0)
    # Merged: all files are as before, and nothing trains.
    model.merge_lora()
    with pytest.raises(RuntimeError, match="unmerge_lora"):
        trains(model, inputs)
    with pytest.raises(ValueError, match="merged"):
        model.disable_lora()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], atol=1e-5, rtol=1e-5)
    fresh = first.load()
    fresh.enable_lora(RANK, names)
    fresh.merge_lora()
    fresh.load_state_dict(state)
    oracle.assert_close(outputs_of(fresh, inputs), adapted)
    model.save_weights(tmp_path / "merged.safetensors")
    other.load_weights(tmp_path / "merged.safetensors")
    oracle.assert_close(outputs_of(other, inputs), adapted)
    model.save_lora_weights(tmp_path / "merged.lora.h5")
    with h5py.File(tmp_path / "merged.lora.h5") as one, h5py.File(tmp_path / "off.lora.h5") as two:
        assert sorted(one["lora"]) == sorted(two["lora"])
    # A second stage, on top of what was merged.
    second = copy.deepcopy(model)
    second.enable_lora(RANK + 1, names)
    oracle.assert_close(outputs_of(second, inputs), adapted)
    trains(second, inputs)
    second.merge_lora()
    second.delete_lora()
    oracle.assert_close(outputs_of(second, inputs), adapted)
    # And gone.
    model.unmerge_lora()
    trains(model, inputs)
    with pytest.raises(ValueError, match="already"):
        model.enable_lora(RANK)
    model.delete_lora()
    oracle.assert_close(outputs_of(model, inputs), plain)
    assert not [module for module in model.modules() if isinstance(module, Adapter)]
    assert trained == {name for name, value in model.named_parameters() if value.requires_grad}
    assert model.state_dict().keys() == first.load().state_dict().keys()
    with pytest.raises(ValueError, match="enable_lora"):
        model.delete_lora()


def test_a_merged_adapter_that_is_frozen_lets_gradients_pass(bert: Reference) -> None:
    model = enable(bert.load())
    model.merge_lora()
    model.requires_grad_(True)
    for layer in adapters(model).values():
        layer.lora_kernel_a.requires_grad_(False)
        layer.lora_kernel_b.requires_grad_(False)
    trains(model, bert.inputs)


def test_flat_factors_train_and_go_to_kerashub(first: Reference, tmp_path: Path) -> None:
    model = enable(first.load(), format="peft")
    expected = outputs_of(model, first.inputs)
    trains(model, first.inputs)
    model.save_lora_weights(tmp_path / "x.lora.h5")
    again = first.load()
    again.load_lora_weights(tmp_path / "x.lora.h5")
    oracle.assert_close(outputs_of(again, first.inputs), expected)
    model.merge_lora()
    oracle.assert_close(outputs_of(model, first.inputs), expected)


def write(path: Path, rank: Any, **factors: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["lora/vars/rank"] = rank
        for index, shapes in factors.items():
            for name, value in zip(("lora_kernel_a", "lora_kernel_b"), shapes):
                file[f"lora/{index.strip('_')}/vars/{name}"] = value
    return path


@pytest.mark.parametrize(
    "rank", [np.inf, np.nan, 2.5, -1, 0, [2, 2], np.ones(1000), 2**40, True], ids=str
)
def test_ranks_that_are_none(bert: Reference, tmp_path: Path, rank: Any) -> None:
    path = write(tmp_path / "x.lora.h5", rank, _7=(np.ones((8, 2)), np.ones((2, 8))))
    with pytest.raises(ValueError, match="rank"):
        bert.load().load_lora_weights(path)


@pytest.mark.parametrize("index", ["²", "03", "-1", "1" * 400])
def test_indexes_that_are_none(bert: Reference, tmp_path: Path, index: str) -> None:
    path = write(tmp_path / "x.lora.h5", 2, **{f"_{index}": (np.ones((8, 2)), np.ones((2, 8)))})
    with pytest.raises(ValueError, match="no part of a LoRA file"):
        bert.load().load_lora_weights(path)


def test_alphas_that_are_none(bert: Reference) -> None:
    for alpha in (0, float("nan"), float("inf"), 10**400, "2", True):
        with pytest.raises(ValueError, match="lora_alpha"):
            bert.load().enable_lora(2, lora_alpha=alpha)


def test_values_that_are_not_finite(bert: Reference, tmp_path: Path) -> None:
    model = enable(bert.load())
    with torch.no_grad():
        next(iter(adapters(model).values())).lora_kernel_a[0, 0, 0] = torch.nan
    model.save_lora_weights(tmp_path / "x.lora.h5")
    with warnings.catch_warnings(), pytest.raises(ValueError, match="not finite"):
        bert.load().load_lora_weights(tmp_path / "x.lora.h5")
