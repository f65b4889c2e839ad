"""What must hold for every family of images besides `test_families.py`: batch norms in training,
bad images, memory, fused inference, compilation over sizes.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from keras_hub_torch.backbones.layers.convolution import BatchNormalization, Convolution
from keras_hub_torch.backbones.layers.vision import DropPath

from . import oracle
from .conftest import Reference
from .test_families import assert_gradients_close, run, takes_one_size


def norms_of(model: nn.Module) -> list[BatchNormalization]:
    norms = [module for module in model.modules() if isinstance(module, BatchNormalization)]
    if not norms:
        pytest.skip("no batch norm")
    return norms


def keras_layers(model: Any, class_name: str) -> list[Any]:
    return [layer for layer in model._flatten_layers() if type(layer).__name__ == class_name]


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.rate = 0.0
    return model.train()


def all_in(dtype: str, value: Any) -> Any:
    """A configuration whose serialized models and layers have that dtype."""
    if isinstance(value, list):
        return [all_in(dtype, one) for one in value]
    if not isinstance(value, dict):
        return value
    value = {key: all_in(dtype, one) for key, one in value.items()}
    if "class_name" in value:
        value["config"]["dtype"] = dtype
    return value


def both_without_dropout(reference: Reference, dtype: str = "float32") -> tuple[Any, Any]:
    case = reference.case
    case = dataclasses.replace(case, config={k: all_in(dtype, v) for k, v in case.config.items()})
    model = without_dropout(reference.load(trainable=True)).to(getattr(torch, dtype))
    norms_of(model)
    theirs = oracle.keras_model(case, trainable=True, dtype=dtype)
    for layer in theirs._flatten_layers():
        for name in ("rate", "drop_prob"):
            if getattr(layer, name, None):
                setattr(layer, name, 0.0)
    return model, theirs


def axes_of(model: Any) -> tuple[int, int, int]:
    """Of height, width and channels."""
    return (2, 3, 1) if getattr(model, "data_format", None) == "channels_first" else (1, 2, 3)


def test_training(first_image: Reference, tmp_path: Path) -> None:
    """Three batches through batch norms in training mode: outputs, gradients, moving statistics.

    Each case says in which dtype: float64 if its norms magnify rounding beyond the limits.
    """
    dtype = first_image.case.training_dtype
    model, theirs = both_without_dropout(first_image, dtype)
    rng = first_image.case.rng
    for step in range(3):
        batch = np.concatenate([first_image.case.inputs(rng) for _ in range(2)])
        outputs = oracle.flat(theirs(batch, training=True))
        result = run(model, batch)
        oracle.assert_close(result, oracle.named(outputs))
        if step == 0:
            for found in (outputs, result):
                generator = torch.Generator().manual_seed(0)
                sum(
                    (found[name] * torch.randn(found[name].shape, generator=generator)).sum()
                    for name in sorted(found)
                ).backward()
    theirs.save_weights(str(tmp_path / "model.weights.h5"))
    trained = first_image.load().to(getattr(torch, dtype))
    trained.load_weights(tmp_path / "model.weights.h5")
    for (name, mine), other in zip(model.named_buffers(), trained.buffers()):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5, msg=name)
    assert_gradients_close(model, theirs, tmp_path / "gradients.weights.h5")


def test_frozen_norms(first_image: Reference) -> None:
    """They keep to their moving statistics, in training mode too."""
    model, theirs = both_without_dropout(first_image)
    for norm in norms_of(model):
        norm.trainable = False
    for layer in keras_layers(theirs, "BatchNormalization"):
        layer.trainable = False
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        outputs = theirs(first_image.inputs, training=True)
        oracle.assert_close(model(first_image.inputs), oracle.named(outputs))
        oracle.assert_close(outputs, first_image.outputs)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_bfloat16"])
def test_training_in_few_bits(first_image: Reference, dtype: str) -> None:
    """Statistics are those of float32 up to the rounding of activations and buffers."""
    model = without_dropout(first_image.load(dtype=dtype))
    exact = without_dropout(first_image.load())
    norms = norms_of(model)
    with torch.no_grad():
        model(first_image.inputs)
        exact(first_image.inputs)
    for mine, theirs in zip(norms, norms_of(exact)):
        for name in ("running_mean", "running_var"):
            rounded, reference = getattr(mine, name).float(), getattr(theirs, name)
            assert (rounded - reference).abs().max() <= 0.05 * reference.abs().max().clamp(min=1)


# Bad input


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (16, 9)])
def test_small_images(first_image: Reference, size: tuple[int, int]) -> None:
    """They are refused where KerasHub cannot take them, and otherwise computed."""
    model, images = first_image.load(), first_image.tensors
    height = axes_of(model)[0]
    images = images[:, : size[0], : size[1]] if height == 1 else images[..., : size[0], : size[1]]
    images = images.contiguous()
    try:
        expected = oracle.keras_outputs(first_image.model, images.numpy())
    except Exception:
        expected = None
    with torch.no_grad():
        if expected is None:
            try:
                model(images)
            except ValueError as error:
                assert str(error).startswith("Images must")  # noqa: PT017  # or it takes them
        else:
            # Norms of few pixels magnify rounding, KerasHub's more than ours: ours is compared with
            # itself in float64, and that with KerasHub.
            mine, exact = model(images), oracle.named(model.double()(images.double()))
            oracle.assert_close(mine, exact)
            oracle.assert_close(exact, expected, 1e-4)


def test_refused_configurations(first_image: Reference) -> None:
    cls, config = type(first_image.load(load_weights=False)), first_image.case.config
    lists = {name: len(v) for name, v in config.items() if name.startswith("stackwise")}
    for name, value in config.items():
        if name in lists and list(lists.values()).count(len(value)) > 1:
            with torch.device("meta"), pytest.raises(ValueError, match=name):
                cls(**{**config, name: value[:-1]})
        if name.endswith("_type") and isinstance(value, str):
            with torch.device("meta"), pytest.raises(ValueError, match=f"{name}='klingon'"):
                cls(**{**config, name: "klingon"})
    if {"data_format", "image_shape"} <= inspect.signature(cls).parameters.keys():
        turned = {**config, "data_format": "channels_last", "image_shape": (3, 64, 64)}
        with torch.device("meta"), pytest.raises(ValueError, match="image_shape="):
            cls(**turned)
        with torch.device("meta"), pytest.raises(ValueError, match=r"data_format.*'channels'"):
            cls(**{**config, "data_format": "channels"})


# Speed


def test_memory_is_channels_last(first_image: Reference) -> None:
    """From the image to the last convolution."""
    model, images = first_image.load(), first_image.tensors

    def check(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        for x in (*args, output):
            if x.ndim == 4:
                assert x.is_contiguous(memory_format=torch.channels_last), module

    for module in model.modules():
        if isinstance(module, (Convolution, BatchNormalization)):
            module.register_forward_hook(check)
    wide = torch.cat((images, images))
    with torch.no_grad():
        model(wide)
        model.to(memory_format=torch.channels_last)(wide)


def outputs_of(model: Any, images: Any) -> dict[str, torch.Tensor]:
    outputs = run(model, images)
    if hasattr(model, "pyramid_outputs"):
        outputs = {**outputs, **model.pyramid_outputs(images)}
    return outputs


@torch.no_grad()
def test_fuse(first_image: Reference, tmp_path: Path) -> None:
    model = first_image.load()
    norms = norms_of(model)
    before = copy.deepcopy(model.state_dict())
    fused = model.train().fuse()
    assert model.training
    assert not fused.training
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert sum(isinstance(m, BatchNormalization) for m in fused.modules()) < len(norms)
    oracle.assert_close(
        outputs_of(fused, first_image.inputs),
        oracle.named(outputs_of(model.eval(), first_image.inputs)),
    )
    torch._dynamo.reset()
    compiled = torch.compile(fused, fullgraph=True, backend="eager")
    images = first_image.tensors
    oracle.assert_close(compiled(images), oracle.named(run(fused, images)))
    for verb in ("save_to_preset", "export_to_timm", "export_to_transformers"):
        with pytest.raises(ValueError, match=r"made by fuse\(\)"):
            getattr(fused, verb)(tmp_path / "x")
    for verb in ("save_weights", "load_weights"):
        with pytest.raises(ValueError, match=r"made by fuse\(\)"):
            getattr(fused, verb)(tmp_path / "x.weights.h5")
    assert not list(tmp_path.iterdir())


# Compilation


def resized(images: torch.Tensor, model: Any, batch: int, height: int, width: int) -> torch.Tensor:
    rows, columns, channels = axes_of(model)
    shape = [batch, 0, 0, 0]
    shape[rows], shape[columns], shape[channels] = height, width, images.shape[channels]
    return torch.rand(shape)


def sizes_of(reference: Reference, model: Any) -> list[tuple[int, int, int]]:
    """Batch, height and width of three inputs; the sides of a model for one size stay."""
    if takes_one_size(model):
        rows, columns, _ = axes_of(model)
        height, width = reference.inputs.shape[rows], reference.inputs.shape[columns]
        return [(2, height, width), (3, height, width), (4, height, width)]
    return [(4, 97, 70), (5, 103, 90), (6, 130, 81)]


def test_inductor(compiled_image: Reference) -> None:
    """One graph for all sizes in inference, and gradients. Those are compiled for one size, since
    inductor (torch 2.13) makes each convolution's gradient for one.

    In the dtype that training is compared in: inductor's own norms round, too.
    """
    torch._dynamo.reset()
    counters.clear()
    dtype = getattr(torch, compiled_image.case.training_dtype)
    model = compiled_image.load(trainable=True).to(dtype)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    sizes = sizes_of(compiled_image, model)
    with torch.no_grad():
        for size in sizes:
            images = resized(compiled_image.tensors, model, *size).to(dtype)
            oracle.assert_close(compiled(images), oracle.named(model(images)))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    images = resized(compiled_image.tensors, model, *sizes[0]).to(dtype)
    found = []
    for one in (torch.compile(model, fullgraph=True, dynamic=False), model):
        model.zero_grad()
        sum(value.square().mean() for value in run(one, images).values()).backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    mine, exact = found
    largest = max(gradient.abs().max() for gradient in exact.values())
    for name, gradient in exact.items():
        scale = max(gradient.abs().max(), 1e-2 * largest)
        assert (mine[name] - gradient).abs().max() <= 1e-4 * scale, name


@torch.no_grad()
def test_export(first_image: Reference) -> None:
    """With dynamic batch, height and width."""
    model = first_image.load()
    batches = [resized(first_image.tensors, model, *size) for size in sizes_of(first_image, model)]
    free = torch.export.Dim.AUTO
    rows, columns, _ = axes_of(model)
    axes = {0: free} if takes_one_size(model) else {0: free, rows: free, columns: free}
    name = next(iter(model.input_specs))
    program = torch.export.export(
        model, (), {name: batches[0]}, dynamic_shapes={name: axes}
    ).module()
    for images in batches:
        oracle.assert_close(program(**{name: images}), oracle.named(run(model, images)))
