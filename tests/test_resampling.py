"""Models for images of another size than their preset's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.vitdet.modeling_vitdet import VitDetEmbeddings

from keras_hub_torch.models import Backbone, PARSeqBackbone, ResNetBackbone, ViTBackbone

from . import oracle
from .cases import all_cases
from .checkpoints import all_checkpoints, load, outputs_of, visible
from .checkpoints.vit_det import CHECKPOINTS as VIT_DET

FIXED = {
    case.cls: case
    for case in reversed(all_cases())
    if getattr(__import__("keras_hub_torch").models, case.cls).resampled
}
# Those that resample there, too.
OF_TRANSFORMERS = {
    c.backbone: c
    for c in reversed(all_checkpoints())
    if c.backbone in FIXED
    and c.backbone
    not in (
        "PaliGemmaBackbone",
        "SAM3PromptableConceptBackbone",
        "SAMBackbone",
        "ViTDetBackbone",
    )
}


def image_shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """A model's, or that of the encoder within it."""
    parts = (part["config"] for part in config.values() if isinstance(part, dict))
    given = (one["image_shape"] for one in (config, *parts) if "image_shape" in one)
    height, width, channels = next(given)
    return height, width, channels


@pytest.mark.parametrize("cls", OF_TRANSFORMERS)
@torch.no_grad()
def test_as_transformers(cls: str, tmp_path: Path) -> None:
    checkpoint = OF_TRANSFORMERS[cls]
    checkpoint.save(tmp_path)
    interface = dataclasses.replace(
        checkpoint.interface, besides=lambda inputs: {"interpolate_pos_encoding": True}
    )
    inputs = checkpoint.make_inputs()
    images = inputs["images"]
    larger = torch.rand(2, 2 * images.shape[1], 3 * images.shape[2], images.shape[3])
    model = Backbone.from_preset(tmp_path, image_shape=tuple(larger.shape[1:]))
    theirs = interface.auto.from_pretrained(tmp_path).eval()
    inputs |= {"images": larger}
    expected = outputs_of(theirs, interface, inputs)
    oracle.assert_close(visible(model(inputs), interface, {}), oracle.named(expected))


@torch.no_grad()
def test_as_segment_anything(tmp_path: Path) -> None:
    """transformers has one size for its images, but resamples the relative positions of maps."""
    theirs = load(VIT_DET[0].save(tmp_path)).vision_encoder
    model: Any = Backbone.from_preset(tmp_path, image_shape=(28, 28, 3))
    x = torch.randn(2, 7, 7, 12)
    oracle.assert_close(model.layers[1](x), oracle.named(theirs.layers[1](x)))
    places = VitDetEmbeddings.get_absolute_positions(
        None, theirs.pos_embed.flatten(1, 2), False, 7, 7
    )
    oracle.assert_close(model.positions.pos_embed, oracle.named(places))


@pytest.mark.parametrize("cls", FIXED)
@torch.no_grad()
def test_kept(cls: str, tmp_path: Path) -> None:
    """All other weights are the same, and a model of the same size has all of them."""
    case = FIXED[cls]
    model = getattr(__import__("keras_hub_torch").models, cls)(**case.config)
    model.save_to_preset(tmp_path)
    if "image_size" in case.config:
        kept_where_images_are_square(model, tmp_path)
        return
    height, width, channels = shape = image_shape(case.config)
    same = Backbone.from_preset(tmp_path, image_shape=shape)
    state: dict[str, Any] = same.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    larger = (2 * height, 2 * width, channels)
    other, meta, drawn = (
        Backbone.from_preset(tmp_path, image_shape=larger, **options)
        for options in ({}, {"device": "meta"}, {"load_weights": False})
    )
    shapes = {n: t.shape for n, t in other.state_dict().items()}
    for one in (meta, drawn):
        assert {n: t.shape for n, t in one.state_dict().items()} == shapes
        assert one.get_config() == other.get_config()
    assert image_shape(other.get_config()) == larger
    changed = {n for n, t in other.state_dict().items() if t.shape != state[n].shape}
    assert changed
    assert all("position" in name or "rope_embeddings" in name for name in changed)
    assert all(torch.equal(t, state[n]) for n, t in other.state_dict().items() if n not in changed)
    other.save_to_preset(tmp_path / "other")
    oracle.keras_hub.models.Backbone.from_preset(str(tmp_path / "other"))
    with pytest.raises(ValueError, match="image_shape"):
        Backbone.from_preset(tmp_path, image_shape=(1, width, channels))
    with pytest.raises(ValueError, match="channels"):
        Backbone.from_preset(tmp_path, image_shape=(height, width, channels + 2))
    with pytest.raises(TypeError, match="image_shape must be"):
        Backbone.from_preset(tmp_path, image_shape=height)


def kept_where_images_are_square(model: Any, folder: Path) -> None:
    side = model.image_size
    other: Any = Backbone.from_preset(folder, image_size=2 * side)
    assert other.get_config() == {**model.get_config(), "image_size": 2 * side}
    assert other.image_sequence_length == 4 * model.image_sequence_length
    state = model.state_dict()
    changed = {n for n, t in other.state_dict().items() if t.shape != state[n].shape}
    assert len(changed) == 1
    assert all(torch.equal(t, state[n]) for n, t in other.state_dict().items() if n not in changed)
    other.save_to_preset(folder / "other")
    oracle.keras_hub.models.Backbone.from_preset(str(folder / "other"))


def test_free(tmp_path: Path) -> None:
    """Who has no positions takes any size."""
    resnet = ResNetBackbone([64], [7], [64], [1], [1], "basic_block", image_shape=(32, 32, 3))
    resnet.save_to_preset(tmp_path)
    model = Backbone.from_preset(tmp_path, image_shape=(40, 48, 3))
    assert model.image_shape == (40, 48, 3)
    assert not ResNetBackbone.resampled
    assert ViTBackbone.resampled
    PARSeqBackbone(resnet, 9, 4, 8, 1, 2, 8).save_to_preset(tmp_path / "parseq")
    with pytest.raises(TypeError, match="No part of this PARSeqBackbone has image_shape"):
        Backbone.from_preset(tmp_path / "parseq", image_shape=(40, 48, 3))
