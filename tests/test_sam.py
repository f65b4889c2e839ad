"""SAM's mask decoder, which files may hold or not, sizes of images, and prompts that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

import keras_hub_torch
from keras_hub_torch.presets.keras.tree import keras_variables

from . import oracle
from .cases.sam import CASES, inputs
from .checkpoints import Checkpoint, load
from .checkpoints.sam import CHECKPOINTS

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


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.id)
@torch.no_grad()
def test_masks_of_transformers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder, given = checkpoint.save(tmp_path), checkpoint.make_inputs()
    model = keras_hub_torch.models.SAMBackbone.from_preset(folder)
    theirs = load(folder)
    names, forms = checkpoint.interface.inputs, checkpoint.interface.forms
    prompts = {names[name]: forms[name](value) for name, value in given.items()}
    # The mask for clear prompts, then those for others.
    found = [theirs(**prompts, multimask_output=several) for several in (False, True)]
    expected = {
        "masks": torch.cat([one.pred_masks[:, 0] for one in found], dim=1),
        "iou_pred": torch.cat([one.iou_scores[:, 0] for one in found], dim=1),
    }
    oracle.assert_close(model.mask_decoder(model(given)), oracle.named(expected))


def test_checkpoint_without_mask_decoder(tmp_path: Path) -> None:
    file = CHECKPOINTS[0].save(tmp_path) / "model.safetensors"
    tensors = {name: t for name, t in load_file(file).items() if "mask_decoder" not in name}
    frequencies = tensors["shared_image_embedding.positional_embedding"]
    tensors["prompt_encoder.shared_embedding.positional_embedding"] = frequencies.clone()
    save_file(tensors, file)
    model = keras_hub_torch.models.SAMBackbone.from_preset(tmp_path)
    assert not model.mask_decoder.state_dict()
    with pytest.raises(ValueError, match=r"mask_decoder has no weights.*by mask_decoder.build\(\)"):
        model.export_to_transformers(tmp_path / "new")
    model.mask_decoder.build()
    model.export_to_transformers(tmp_path / "new")
    assert load(tmp_path / "new").mask_decoder.iou_token.weight.any()
    tensors["prompt_encoder.shared_embedding.positional_embedding"] += 1
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"shared_embedding.positional_embedding is not"):
        keras_hub_torch.models.SAMBackbone.from_preset(tmp_path)


@torch.no_grad()
def test_images_of_another_size(tmp_path: Path) -> None:
    CHECKPOINTS[0].save(tmp_path)
    model = keras_hub_torch.models.SAMBackbone.from_preset(tmp_path, image_shape=(22, 22, 3))
    given = {name: torch.from_numpy(x) for name, x in inputs(2, 22, 3, 2, 1, 20)(CASE.rng).items()}
    outputs = model(given)
    assert model.mask_decoder(outputs)["masks"].shape == (2, 3, 20, 20)
    # What is in the middle of the image stays there.
    middle = model.prompt_encoder(points=torch.full((1, 1, 2), 10.5), labels=torch.full((1, 1), -2))
    before = keras_hub_torch.models.SAMBackbone.from_preset(tmp_path).prompt_encoder
    expected = before(points=torch.full((1, 1, 2), 7.5), labels=torch.full((1, 1), -2))
    name = "prompt_sparse_embeddings"
    oracle.assert_close(middle[name], oracle.named(expected[name]))


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
    """They are refused before anything is computed."""
    model = keras_hub_torch.models.SAMBackbone(**CASE.config)
    for part in model.modules():
        if part not in (model, model.prompt_encoder, model.image_encoder):
            part.register_forward_pre_hook(lambda *args: pytest.fail("something was computed"))
    given: dict[str, Any] = dict(inputs(2, 12, 3, 2, 1, 12)(CASE.rng))
    for name, shape in changes.items():
        given[name] = None if shape is None else torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        model(given)
