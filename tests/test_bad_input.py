"""What every model of images refuses: by name, before it makes a weight or computes anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import keras_hub_torch
from keras_hub_torch.backbones import _registry
from keras_hub_torch.backbones._configuration import (
    COMMON,
    Configurable,
    check_values,
    constructor_arguments,
)

from .cases import all_cases
from .oracle import Case

CLASSES = _registry.public_classes(Configurable)
IMAGES = {"height", "width", "rows", "pixels"}


def sees(cls: type[Configurable]) -> bool:
    return any(IMAGES & set(spec.axes) for spec in cls.input_specs.values())


def configurations(name: str, config: Any) -> Iterator[tuple[type[Configurable], dict[str, Any]]]:
    """A model's and those of the models within it."""
    if sees(CLASSES[name]):
        yield CLASSES[name], config
    for value in config.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict) and part.get("class_name") in CLASSES:
                yield from configurations(part["class_name"], part["config"])


CONFIGURATIONS = {
    cls.__name__: (cls, config)
    for case in reversed(all_cases())
    for cls, config in configurations(case.cls, case.config)
}
CASES = {case.cls: case for case in reversed(all_cases()) if sees(CLASSES[case.cls])}


def negative(value: Any) -> Any:
    return [negative(item) for item in value] if isinstance(value, (list, tuple)) else -1


def wrong_values(cls: type[Configurable], config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, parameter in constructor_arguments(cls).items():
        value = config.get(name, parameter.default)
        hint = str(parameter.annotation)
        if name in COMMON or value is parameter.empty:
            continue
        if "None" not in hint and "Any" not in hint and parameter.default is not None:
            yield name, None
        if isinstance(value, (int, float, list, tuple)) and "str" not in hint:
            yield name, "klingon"
        try:
            check_values(cls, {name: negative(value)})
        except ValueError:
            yield name, negative(value)
        if "activation" in name and isinstance(value, str):
            yield name, "klingon"


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls, config = CONFIGURATIONS[name]
    wrong = list(wrong_values(cls, config))
    assert wrong
    monkeypatch.setattr(nn.Module, "__init__", lambda self: pytest.fail("built"))
    for argument, value in wrong:
        with pytest.raises((TypeError, ValueError), match=rf"{name}'s {argument}\b"):
            cls(**{**config, argument: value})


def wrong_inputs(
    cls: type[Configurable], inputs: dict[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor, type[Exception]]]:
    for name, tensor in inputs.items():
        spec = cls.input_specs[name]
        if spec.axes:
            yield name, tensor[0], ValueError
            yield name, tensor.to(torch.complex64), TypeError
        if "batch" in spec.axes and len(inputs) > 1:
            yield name, torch.cat((tensor, tensor[:1])), ValueError
        if spec.kind == "images":
            yield name, (255 * tensor).to(torch.uint8), TypeError
            yield name, torch.cat((tensor, tensor[..., :1]), -1), ValueError
            turned = tensor.transpose(-1, -3)
            if "height" in spec.axes and turned.shape != tensor.shape:
                yield name, turned, ValueError


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
def test_inputs(case: Case) -> None:
    made = case.make_inputs()
    with torch.device("meta"):
        model = getattr(keras_hub_torch.models, case.cls)(**case.config)
        specs = model.input_specs
        arrays = {next(iter(specs)): made} if isinstance(made, np.ndarray) else made
        inputs = {name: torch.from_numpy(array).to("meta") for name, array in arrays.items()}
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
                module.register_forward_hook(lambda *args: pytest.fail("computed"))
        for name, tensor, error in wrong_inputs(type(model), inputs):
            with pytest.raises(error, match=rf"\b{name}\b|Images|^images"):
                model({**inputs, name: tensor})


@pytest.mark.parametrize(
    "given",
    [
        {"hidden_dim": 0},
        {"num_layers": -1},
        {"image_shape": (0, 8, 3)},
        {"dropout_rate": 1.5},
        {"layer_norm_epsilon": -1e-5},
    ],
)
def test_bounds(given: dict[str, Any]) -> None:
    config = CASES["ViTBackbone"].config
    (name,) = given
    with pytest.raises(ValueError, match=rf"ViTBackbone's {name}=.* must be"):
        CLASSES["ViTBackbone"](**{**config, **given})


def test_forced_widths_may_be_anything_not_positive() -> None:
    case = CASES["EfficientNetBackbone"]
    stacks = len(case.config["stackwise_num_repeats"])
    for value in (0, -1):
        forced = {"stackwise_force_input_filters": [value] * stacks}
        with torch.device("meta"):
            CLASSES[case.cls](**{**case.config, **forced})
