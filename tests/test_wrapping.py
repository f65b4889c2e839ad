"""Tools that wrap or replace linear layers take the class at its word."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from keras_hub_torch.backbones.layers.core import Projection
from keras_hub_torch.presets.keras.tree import keras_tree

from . import oracle
from .conftest import Reference


class Plain(nn.Module):
    """What an `nn.Linear` says it is, and nothing else."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


def outputs_of(model: Any, inputs: Any) -> dict[str, Any]:
    with torch.no_grad():
        return oracle.named(model(inputs))


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {k: m for k, m in model.named_modules() if isinstance(m, nn.Linear)}


def test_linear_layers_are_linear(first: Reference) -> None:
    model = first.load()
    expected = outputs_of(model, first.inputs)
    for path, linear in linears(model).items():
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, Plain(linear))
    oracle.assert_close(model(first.inputs), expected)
    assert not linears(model)


def test_adapted_layers_are_no_linear_layers(first: Reference) -> None:
    """A tool that replaced one would drop its adapter."""
    model = first.load()
    before = len(linears(model))
    try:
        model.enable_lora(2)
    except ValueError:
        pytest.skip("no default LoRA layers")
    adapted = [m for m in model.modules() if hasattr(m, "lora_kernel_a")]
    projections = sum(isinstance(module, Projection) for module in adapted)
    assert len(linears(model)) == before - projections


def test_peft_on_all_linear_layers(first: Reference) -> None:
    from peft import LoraConfig, get_peft_model

    model = first.load()
    if not linears(model):
        pytest.skip("no linear layer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    expected = outputs_of(wrapped, first.inputs)
    merged = wrapped.merge_and_unload()
    oracle.assert_close(merged(first.inputs), expected)


def test_layers_are_frozen_as_in_keras(first: Reference) -> None:
    model = first.load(trainable=True)
    for layer in keras_tree(model).children:
        module = model.get_submodule(layer.key)
        module.trainable = False
        assert not any(parameter.requires_grad for parameter in module.parameters())
    own = [p for p in model.parameters(recurse=False) if p.requires_grad]
    assert model.trainable is bool(own)
    model.trainable = True
    assert all(p.requires_grad for p in model.parameters() if p.is_floating_point())
    model.requires_grad_(False)
    assert model.trainable is False
    assert model.get_config().get("trainable", False) is False
