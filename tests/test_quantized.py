"""Presets with int8 weights, which KerasHub's own `Backbone.from_preset` cannot load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import keras_hub_torch
from keras_hub_torch.lora import adapters

from . import oracle
from .cases import all_cases
from .test_families import dump

CASES = ["bert", "gpt2", "gemma", "t5", "t5-untied"]


@pytest.fixture(scope="module", params=CASES)
def quantized(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, oracle.Case, Path]:
    case = next(case for case in all_cases() if case.id == request.param)
    model = oracle.keras_model(case)
    model.quantize("int8")
    preset = tmp_path_factory.mktemp("quantized") / "preset"
    model.save_to_preset(str(preset))
    return model, case, preset


def test_equals_keras(quantized: tuple[Any, oracle.Case, Path], tmp_path: Path) -> None:
    theirs, case, preset = quantized
    inputs = case.make_inputs()
    model = keras_hub_torch.models.Backbone.from_preset(preset)
    assert model.get_submodule("token_embedding").weight.dtype == torch.int8
    with torch.no_grad():
        outputs = oracle.named(model(inputs))
    # A rounding that falls the other way moves a value by 1 / 127 of the largest of its row.
    for name, value in oracle.keras_outputs(theirs, inputs).items():
        error = np.abs(outputs[name] - value)
        assert np.quantile(error, 0.9) <= 2e-5 * max(1.0, np.abs(value).max()), name
        assert error.max() <= 0.02 * max(1.0, np.abs(value).max()), name
    model.save_to_preset(tmp_path / "saved")
    assert dump(tmp_path / "saved" / "model.weights.h5") == dump(preset / "model.weights.h5")
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == json.loads(
        (preset / "config.json").read_text()
    )
    hidden = torch.randn(3, outputs[next(iter(outputs))].shape[-1])
    with torch.no_grad():
        logits = oracle.named(model.token_embedding(hidden, reverse=True))
        expected = oracle.named(theirs.token_embedding(hidden, reverse=True))
    np.testing.assert_allclose(logits["output"], expected["output"], atol=1e-4)


def test_it_stays_quantized(quantized: tuple[Any, oracle.Case, Path]) -> None:
    with pytest.raises(ValueError, match="is quantized by Keras and stays so"):
        keras_hub_torch.models.Backbone.from_preset(quantized[2], dequantize=True)


def test_a_given_dtype_reaches_the_rest(quantized: tuple[Any, oracle.Case, Path]) -> None:
    _, case, preset = quantized
    model = keras_hub_torch.models.Backbone.from_preset(preset, dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert model.get_submodule("token_embedding").weight.dtype == torch.int8
    outputs = model(case.make_inputs())
    outputs = outputs if isinstance(outputs, dict) else {"output": outputs}
    assert {value.dtype for value in outputs.values()} == {torch.bfloat16}
    assert all(value.isfinite().all() for value in outputs.values())


def test_adapters_on_int8(quantized: tuple[Any, oracle.Case, Path], tmp_path: Path) -> None:
    _, case, preset = quantized
    if case.cls == "T5Backbone":
        pytest.skip("the family has no default LoRA layers")
    model = keras_hub_torch.models.Backbone.from_preset(preset)
    inputs = case.make_inputs()
    with torch.no_grad():
        before = oracle.named(model(inputs))
    model.enable_lora(2)
    with torch.no_grad():
        oracle.assert_close(model(inputs), before, 0.0)
    outputs = model(inputs)
    outputs = outputs if isinstance(outputs, dict) else {"output": outputs}
    next(iter(outputs.values())).square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert gradients
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients if g is not None)
    with torch.no_grad():
        for layer in adapters(model).values():
            layer.lora_kernel_b.fill_(0.1)
        expected = oracle.named(model(inputs))
    for name, format in (("x.lora.h5", "keras"), ("adapter", "peft")):
        model.save_lora_weights(tmp_path / name, format=format)
        again = keras_hub_torch.models.Backbone.from_preset(preset)
        again.load_lora_weights(tmp_path / name)
        with torch.no_grad():
            oracle.assert_close(again(inputs), expected)
    with pytest.raises(NotImplementedError, match="int8"):
        model.merge_lora()


def test_other_modes_are_refused(tmp_path: Path) -> None:
    keras.utils.clear_session()
    case = next(case for case in all_cases() if case.id == "bert")
    model = oracle.keras_model(case)
    model.quantize("int4")
    model.save_to_preset(str(tmp_path))
    with pytest.raises(NotImplementedError, match="int4"):
        keras_hub_torch.models.Backbone.from_preset(tmp_path)
