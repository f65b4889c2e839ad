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


@pytest.mark.parametrize(
    ("case_id", "name", "most"),
    [
        ("clip", "token_ids", 18),
        ("metaclip2", "token_ids", 18),
        ("siglip", "token_ids", 9),
        ("blip2", "token_ids", 20),
        ("blip2-text", "token_ids", 23),
        ("whisper", "encoder_features", 38),
        ("whisper", "decoder_token_ids", 19),
    ],
)
def test_too_long(case_id: str, name: str, most: int) -> None:
    case = next(case for case in all_cases() if case.id == case_id)
    inputs = {key: torch.from_numpy(value) for key, value in case.make_inputs().items()}
    inputs.pop("padding_mask", None)
    inputs.pop("decoder_padding_mask", None)
    shape = inputs[name].shape
    with torch.device("meta"):
        model = getattr(keras_hub_torch.models, case.cls)(**case.config)
        given = {key: value.to("meta") for key, value in inputs.items()}
        model({**given, name: torch.zeros(shape[0], most, *shape[2:], dtype=inputs[name].dtype)})
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)):
                module.register_forward_hook(lambda *args: pytest.fail("computed"))
        longer = torch.zeros(shape[0], most + 1, *shape[2:], dtype=inputs[name].dtype)
        with pytest.raises(ValueError, match=rf"{name} has length {most + 1}.*room for {most}\."):
            model({**given, name: longer})


@pytest.mark.parametrize(
    ("case_id", "changes", "message"),
    [
        ("llama", {"num_query_heads": 4, "num_key_value_heads": 3}, "must divide num_query_heads"),
        ("smollm3", {"num_key_value_heads": 3, "num_attention_heads": 4}, "num_attention_heads=4"),
        (
            "t5-gemma",
            {"encoder_num_attention_heads": 4, "encoder_num_key_value_heads": 3},
            "encoder_num_key_value_heads=3 must divide encoder_num_attention_heads=4",
        ),
        ("qwen3.5", {"linear_num_key_heads": 3}, "must divide linear_num_value_heads=4"),
        ("mixtral", {"num_experts": 2, "top_k": 3}, "top_k=3 must be at most num_experts=2"),
        ("gemma4-text", {"num_experts_per_token": 6}, "must be at most num_experts=5"),
        ("gemma4-text", {"num_global_key_value_heads": 4}, "must divide num_query_heads=6"),
        ("gemma3-images", {"hidden_dim": 16}, "output_dim=24, but the text is 16 wide"),
        ("t5-gemma2-images", {"encoder_hidden_dim": 16}, "output_dim=12, but the text is 16 wide"),
        ("gemma4", {"hidden_dim": 8}, "vision_encoder has output_dim=16"),
        ("gemma4-embedding", {"hidden_dim": 8}, "audio_encoder has output_dim=16"),
        ("qwen3.5-images", {"hidden_dim": 16}, "vision_encoder has out_hidden_size=12"),
    ],
)
def test_sizes_that_do_not_go_together(case_id: str, changes: dict[str, Any], message: str) -> None:
    case = next(case for case in all_cases() if case.id == case_id)
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        getattr(keras_hub_torch.models, case.cls)(**{**case.config, **changes})


@pytest.mark.parametrize(
    ("case_id", "name"),
    [
        ("gemma3-images", "vision_indices"),
        ("t5-gemma2-images", "vision_indices"),
        ("qwen3.5-images", "vision_indices"),
    ],
)
def test_places_outside_of_the_text(case_id: str, name: str) -> None:
    case = next(case for case in all_cases() if case.id == case_id)
    inputs = {key: torch.from_numpy(value) for key, value in case.make_inputs().items()}
    model = getattr(keras_hub_torch.models, case.cls)(**case.config)
    for wrong in (inputs[name] + 1000, inputs[name] - 1000):
        with pytest.raises(ValueError, match=f"{name} must be from 0 to"):
            model({**inputs, name: wrong})


def test_sound_of_other_shapes() -> None:
    with torch.device("meta"):
        for case_id, name, shape, message in (
            ("whisper", "encoder_features", (1, 4, 6), "num_mels=7 numbers a frame, not 6"),
            ("moonshine", "encoder_input_values", (1, 894, 1), "at least 895 samples"),
            ("moonshine", "encoder_input_values", (1, 1000, 2), r"\[batch, samples, 1\]"),
        ):
            case = next(case for case in all_cases() if case.id == case_id)
            model = getattr(keras_hub_torch.models, case.cls)(**case.config)
            ids = torch.zeros(1, 2, dtype=torch.long)
            with pytest.raises(ValueError, match=message):
                model({name: torch.zeros(shape), "decoder_token_ids": ids})
            if case_id == "moonshine":
                assert model({name: torch.zeros(1, 895, 1), "decoder_token_ids": ids})
