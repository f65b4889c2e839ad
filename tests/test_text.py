"""Models of text at the edge: what no layer needs, what there is none of, what is too small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import keras_hub_torch

from . import oracle
from .cases import all_cases

models = keras_hub_torch.models
CASES = {case.cls: case for case in reversed(all_cases())}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        # Rotary positions of an odd part of a head, in no layer.
        ("Qwen3_5Backbone", {"head_dim": 12, "layer_types": ["linear_attention"] * 4}),
        ("SmolLM3Backbone", {"rope_layer_enabled_list": [False] * 2, "partial_rotary_factor": 0.5}),
        (
            "Gemma4Backbone",
            {"head_dim": 5, "global_head_dim": 6, "layer_types": ["full_attention"] * 2},
        ),
        ("T5Backbone", {"num_layers": 0}),
    ],
)
def test_edges(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    first = CASES[name]
    case = oracle.Case(first.id, name, {**first.config, **changes}, first.inputs)
    theirs = oracle.keras_model(case)
    preset = oracle.preset_of(theirs, tmp_path)
    inputs = case.make_inputs()
    with torch.no_grad():
        outputs = models.Backbone.from_preset(preset)(inputs)
    oracle.assert_close(outputs, oracle.keras_outputs(theirs, inputs))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("RoformerV2Backbone", {"head_size": 4}, "num_heads=2 of head_size=4 must be hidden_dim"),
        ("Gemma4Backbone", {"head_dim": 5}, "even number of dimensions, not 5"),
        ("XLNetBackbone", {"hidden_dim": 9, "num_heads": 3}, "hidden_dim=9 must be even"),
    ],
)
def test_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(models, name)(**{**CASES[name].config, **changes})


def test_too_little_sound() -> None:
    case = CASES["MoonshineBackbone"]
    model = models.MoonshineBackbone(**case.config)
    inputs: Any = case.make_inputs()
    sound = ("encoder_input_values", "encoder_padding_mask")
    least = {k: value[:, :895] if k in sound else value for k, value in inputs.items()}
    assert model(least)["encoder_sequence_output"].shape[1] == 1
    with pytest.raises(ValueError, match="at least 895 samples, not "):
        model({k: value[:, :894] if k in sound else value for k, value in inputs.items()})
