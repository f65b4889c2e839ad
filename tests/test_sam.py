"""SAM's mask decoder, which files may hold or not, and prompts that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras_hub
import pytest
import torch

import keras_hub_torch
from keras_hub_torch.presets.keras.tree import keras_variables

from . import oracle
from .cases.sam import CASES, inputs

CASE = CASES[0]


@pytest.fixture(scope="module")
def segmenter() -> Any:
    model = oracle.keras_model(CASE)
    task = keras_hub.models.SAMImageSegmenter(backbone=model)
    oracle.randomise(task, CASE.rng)
    return task


def test_mask_decoder(segmenter: Any, tmp_path: Path) -> None:
    segmenter.backbone.save_to_preset(str(tmp_path / "theirs"))
    given = inputs(2, 12, 3, 2, 1, 12)(CASE.rng)
    expected = oracle.keras_outputs(segmenter, given)
    model = keras_hub_torch.models.SAMBackbone.from_preset(tmp_path / "theirs")
    with torch.no_grad():
        masks = model.mask_decoder(model(given))
    oracle.assert_close({name: masks[name] for name in expected}, expected)

    model.save_to_preset(tmp_path / "ours")
    again = keras_hub_torch.models.SAMBackbone.from_preset(tmp_path / "ours")
    model.save_to_preset(tmp_path / "safe", format="safetensors")
    safe = keras_hub_torch.models.SAMBackbone.from_preset(tmp_path / "safe")
    blank = keras_hub_torch.models.SAMBackbone.from_config(model.get_config())
    blank.load_state_dict(model.state_dict())
    for other in (again, safe, blank):
        assert other.state_dict().keys() == model.state_dict().keys()
        for name, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[name], value)
    segmenter.backbone.load_weights(str(tmp_path / "ours" / "model.weights.h5"))
    assert len(keras_variables(model)) > len(keras_variables(type(model)(**CASE.config)))


def test_without_mask_decoder() -> None:
    model = keras_hub_torch.models.SAMBackbone(**CASE.config)
    outputs = model(inputs(2, 12, 0, 1, 0, 5)(CASE.rng))
    with pytest.raises(RuntimeError, match="no weights: load some, or call its build"):
        model.mask_decoder(outputs)
    model.mask_decoder.build()
    assert model.mask_decoder(outputs)["iou_pred"].shape == (2, 3)


def test_left_out_is_empty() -> None:
    model = keras_hub_torch.models.SAMBackbone(**CASE.config).eval()
    empty = inputs(2, 12, 0, 0, 0, 5)(CASE.rng)
    with torch.no_grad():
        full, bare = model(empty), model(images=empty["images"])
    assert all(torch.equal(bare[name], value) for name, value in full.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": (2, 4)}, "labels has points 4, but points has points 3"),
        ({"labels": None}, "points need labels"),
        ({"points": None}, "labels need points"),
        ({"points": (2, 3, 3)}, "points must end in x and y|coordinates"),
        ({"boxes": (2, 1, 4)}, "boxes must have 4 axes"),
        ({"boxes": (2, 1, 3, 2)}, "boxes must have two corners"),
        ({"masks": (2, 1, 8, 12, 1)}, "masks must be of height, width and channels 12 × 12 × 1"),
        ({"images": (2, 8, 12, 3)}, "Images must be of height, width and channels 12 × 12 × 3"),
    ],
)
def test_prompts_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    model = keras_hub_torch.models.SAMBackbone(**CASE.config)
    given: dict[str, Any] = dict(CASE.inputs(CASE.rng))
    for name, shape in changes.items():
        given[name] = None if shape is None else torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        model(given)
