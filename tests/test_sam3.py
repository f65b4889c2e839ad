"""SAM 3: what is within boxes, prompts that do not fit, images of another size, and checkpoints of
the video model.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from keras_hub_torch.backbones.layers.boxes import roi_align
from keras_hub_torch.models import Backbone, SAM3PromptableConceptBackbone

from . import oracle
from . import roi_align as reference
from .cases.sam3 import CASES, inputs, tiny
from .checkpoints.sam3 import CHECKPOINTS
from .checkpoints.sam3 import inputs as examples

CASE = CASES[0]


def test_roi_align() -> None:
    """Boxes in a map, across its edges and beside it, smaller than a pixel and larger than the map,
    and turned round; with gradients, and compiled.
    """
    torch.manual_seed(0)
    corners = torch.rand(16, 4) * 14 - 4
    corners[:6] = torch.tensor(
        [
            [0.0, 0.0, 5.0, 4.0],
            [1.5, 2.5, 1.5, 2.5],
            [-30.0, 1.0, -20.0, 2.0],
            [-4.0, -5.0, 9.0, 7.0],
            [4.0, 3.0, 1.0, 1.0],
            [4.9, 3.9, 5.1, 4.1],
        ]
    )
    width, height = (corners[:, 2:] - corners[:, :2]).unbind(1)
    compiled = torch.compile(roi_align, fullgraph=True, backend="eager")
    for size in (1, 3):
        boxes = corners[(width <= 5 * size) & (height <= 4 * size)]
        images = torch.randint(0, 3, (len(boxes),))
        outer, found = torch.randn(len(boxes), size, size, 2), []
        for call in (roi_align, compiled, None):
            maps = torch.arange(120.0).sin().view(3, 4, 5, 2).requires_grad_()
            if call is None:
                rois = torch.cat((images[:, None], boxes), dim=1)
                seen = reference.roi_align(maps, rois, (size, size))
            else:
                seen = call(maps, boxes, images, size)
            (seen * outer).sum().backward()
            found.append((seen, maps.grad))
        for mine in found[:2]:
            for a, b in zip(mine, found[2], strict=True):
                oracle.assert_close(a, oracle.named(b))


@torch.no_grad()
def test_no_box_is_none() -> None:
    """Left out, empty or padding; and images are computed as if they were alone."""
    model = SAM3PromptableConceptBackbone(**CASE.config).eval()
    given = oracle.tensors(inputs(3, 21, 22, 6, 2)(CASE.rng))
    given["box_labels"] = torch.tensor([[1, 1], [1, -10], [-10, -10]])
    found = model(given)
    for i in range(3):
        one = {name: value[i : i + 1] for name, value in given.items()}
        count = 2 - i
        one["boxes"] = one["boxes"][:, :count] * torch.tensor([0.0, 1, 1, 1, 1])
        one["box_labels"] = one["box_labels"][:, :count]
        for prompts in (one, {**one, "boxes": None, "box_labels": None}):
            if prompts is one or count == 0:
                expected = {name: value[i : i + 1] for name, value in found.items()}
                oracle.assert_close(model(prompts), oracle.named(expected))


@torch.no_grad()
def test_channels_first() -> None:
    """KerasHub has the argument and fails with it."""
    config = tiny(21, 22, mask_decoder={"data_format": "channels_first"})
    model = SAM3PromptableConceptBackbone(**config).eval()
    assert model.get_config()["mask_decoder"]["config"]["data_format"] == "channels_first"
    plain = SAM3PromptableConceptBackbone(**CASE.config).eval()
    plain.load_state_dict(model.state_dict())
    given = CASE.make_inputs()
    found, expected = model(given), plain(given)
    for name in ("pred_masks", "semantic_segs"):
        assert torch.equal(found[name].permute(0, 2, 3, 1), expected[name])


@torch.no_grad()
def test_images_of_another_size(tmp_path: Path) -> None:
    """As in KerasHub, whose `image_shape` does the same."""
    oracle.keras_model(CASE).save_to_preset(str(tmp_path))
    shape = (32, 43, 1)
    theirs = keras_hub.models.Backbone.from_preset(str(tmp_path), image_shape=shape)
    given = inputs(1, 32, 43, 5, 2)(CASE.rng)
    model = Backbone.from_preset(tmp_path, image_shape=shape)
    oracle.assert_close(model(given), oracle.keras_outputs(theirs, given))


# transformers


@pytest.mark.filterwarnings("ignore:Skipping mask_decoder.pixel_decoder:UserWarning")
@torch.no_grad()
def test_the_detector_of_a_video_model(tmp_path: Path) -> None:
    """Beside a tracker; its decoder of masks may have stages that nothing uses."""
    checkpoint = CHECKPOINTS[0]
    checkpoint.save(tmp_path)
    alone = Backbone.from_preset(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["mask_decoder_config"]["num_upsampling_stages"] = 3
    whole = {
        "model_type": "sam3_video",
        "architectures": ["Sam3VideoModel"],
        "detector_config": config,
        "tracker_config": {"model_type": "sam3_tracker_video", "image_size": 20},
        "score_threshold_detection": 0.5,
    }
    (tmp_path / "config.json").write_text(json.dumps(whole))
    tensors = load_file(tmp_path / "model.safetensors")
    for name in (
        "conv_layers.{}.weight",
        "conv_layers.{}.bias",
        "norms.{}.weight",
        "norms.{}.bias",
    ):
        stage = f"mask_decoder.pixel_decoder.{name}"
        tensors[stage.format(2)] = tensors[stage.format(1)].clone()
    tensors = {f"detector_model.{name}": tensor for name, tensor in tensors.items()}
    tensors |= {"tracker_model.a.weight": torch.zeros(2), "tracker_neck.b.bias": torch.zeros(3)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    model = Backbone.from_preset(tmp_path)
    given = examples(1, 20, 5, 2)(CASE.rng)
    oracle.assert_close(model(given), oracle.named(alone(given)))
    theirs = keras_hub.models.Backbone.from_preset(str(tmp_path))
    oracle.assert_close(model(given), oracle.keras_outputs(theirs, given))
    model.export_to_transformers(tmp_path / "new")
    written = load_file(tmp_path / "new" / "model.safetensors")
    assert not any("pixel_decoder.conv_layers.2" in name for name in written)
    for name, tensor in written.items():
        assert torch.equal(tensor, tensors[f"detector_model.{name}"]), name


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_values": (3, 22, 21, 1)}, "Images must be of height, width and channels 21 × 22"),
        ({"token_ids": (3, 13), "padding_mask": None}, "token_ids has 13 positions"),
        ({"box_labels": None}, "boxes need box_labels"),
        ({"boxes": None}, "box_labels need boxes"),
        ({"boxes": (3, 2, 4)}, "boxes must have five numbers"),
        ({"boxes": (3, 1, 5)}, "box_labels has boxes 2, but boxes has boxes 1"),
        ({"boxes": [0, 0.5, 1.5, 0.2, 0.1]}, "boxes[1, 0]=[0.0, 0.5, 1.5"),
        ({"boxes": [1, 100, 80, 20, 10]}, "boxes[1, 0]=[1.0, 100.0"),
        ({"boxes": [3, 0.5, 0.5, 0.2, 0.1]}, "boxes[1, 0]=[3.0, 0.5"),
        ({"boxes": [1, 0.5, 0.5, float("nan"), 0.1]}, "boxes[1, 0]=[1.0, 0.5"),
        ({"box_labels": 2}, "with the label 2 does not fit"),
        ({"box_labels": -10}, "box_labels must have -10, for no box, at the end"),
    ],
)
def test_prompts_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    """They are refused before anything is computed."""
    model = SAM3PromptableConceptBackbone(**CASE.config)
    for part in model.children():
        part.register_forward_pre_hook(lambda *args: pytest.fail("something was computed"))
    given: dict[str, Any] = dict(oracle.tensors(CASE.make_inputs()))
    for name, change in changes.items():
        if isinstance(change, tuple):
            given[name] = torch.zeros(change, dtype=given[name].dtype)
        elif change is None:
            del given[name]
        else:
            given[name][1, 0] = torch.tensor(change)
    with pytest.raises(ValueError, match=re.escape(message)):
        model(given)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vision_encoder", {"num_heads": 3}, "hidden_dim=8 must be num_heads=3 times a multiple"),
        ("vision_encoder", {"window_size": 3}, "4 × 4 patches, of which window_size=3"),
        (
            "vision_encoder",
            {"fpn_scale_factors": [4.0, 3.0, 1.0]},
            "must be of 4.0, 2.0, 1.0 and 0.5",
        ),
        ("vision_encoder", {"patch_size": 11, "window_size": 1}, "too few for fpn_scale_factors"),
        ("vision_encoder", {"fpn_scale_factors": [4.0, 1.0]}, "must be at least three"),
        ("vision_encoder", {"fpn_scale_factors": [1.0, 2.0, 1.0]}, "has (8, 8) pixels"),
        ("vision_encoder", {"image_shape": (21, 4, 1)}, "image_shape=(21, 4) must be at least 5"),
        ("vision_encoder", {"fpn_hidden_dim": 16}, "hidden_dim=8 of the geometry_encoder must be"),
        ("text_encoder", {"embedding_dim": 4}, "embedding_dim=4 must be hidden_dim=6"),
        ("geometry_encoder", {"roi_size": 0}, "roi_size=0"),
        ("detr_encoder", {"num_heads": 3}, "hidden_dim=8 must be divisible by num_heads=3"),
        ("detr_decoder", {"image_shape": (21, 30, 1)}, "make (4, 6) patches"),
        ("detr_decoder", {"num_layers": 0}, "num_layers=0 must be at least 1"),
        ("mask_decoder", {"hidden_dim": 12}, "hidden_dim=12 must be divisible by num_heads=2 and"),
        ("mask_decoder", {"num_upsampling_stages": 1}, "must be at least 2"),
        ("mask_decoder", {"data_format": "first"}, "data_format must be"),
    ],
)
def test_parts_that_do_not_fit(part: str, change: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=re.escape(message)):
        SAM3PromptableConceptBackbone(**tiny(21, 22, **{part: change}))


def test_a_part_of_another_class() -> None:
    config = dict(CASE.config)
    config["detr_encoder"], config["detr_decoder"] = config["detr_decoder"], config["detr_encoder"]
    with pytest.raises(TypeError, match="it must be of SAM3DetrEncoder"):
        SAM3PromptableConceptBackbone(**config)


def test_lists_of_numpy() -> None:
    given = {name: np.asarray(value) for name, value in CASE.make_inputs().items()}  # type: ignore[union-attr]
    model = SAM3PromptableConceptBackbone(**CASE.config).eval()
    given["box_labels"] = given["box_labels"].astype("float32")
    with torch.no_grad():
        oracle.assert_close(model(given), oracle.named(model(CASE.make_inputs())))
