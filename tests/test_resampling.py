"""Models for images of another size than their preset's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from keras_hub_torch.models import Backbone, ResNetBackbone, ViTBackbone

from . import oracle
from .cases import all_cases
from .checkpoints import all_checkpoints, auto_model, visible

FIXED = {
    case.cls: case
    for case in reversed(all_cases())
    if getattr(__import__("keras_hub_torch").models, case.cls).resampled
}
OF_TRANSFORMERS = {
    c.backbone: c
    for c in reversed(all_checkpoints())
    if c.backbone in FIXED and "image_shape" in FIXED[c.backbone].config
}


@pytest.mark.parametrize("cls", OF_TRANSFORMERS)
@torch.no_grad()
def test_as_transformers(cls: str, tmp_path: Path) -> None:
    checkpoint = OF_TRANSFORMERS[cls]
    checkpoint.save(tmp_path)
    (_name, images), *_ = checkpoint.make_inputs().items()
    larger = torch.rand(2, 2 * images.shape[1], 3 * images.shape[2], images.shape[3])
    model = Backbone.from_preset(tmp_path, image_shape=tuple(larger.shape[1:]))
    theirs = auto_model(tmp_path).from_pretrained(tmp_path).eval()
    found = theirs(larger.permute(0, 3, 1, 2), interpolate_pos_encoding=True)
    interface = checkpoint.interface
    expected = {ours: found[name] for ours, (name, _) in interface.outputs.items()}
    oracle.assert_close(
        visible(model(larger), interface, {}), oracle.named(visible(expected, interface, {}))
    )


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
    shape = list(case.config["image_shape"])
    same = Backbone.from_preset(tmp_path, image_shape=tuple(shape))
    state: dict[str, Any] = same.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    height, width, channels = shape
    other = Backbone.from_preset(tmp_path, image_shape=(2 * height, 2 * width, channels))
    meta = Backbone.from_preset(tmp_path, image_shape=other.image_shape, device="meta")
    assert {n: t.shape for n, t in meta.state_dict().items()} == {
        n: t.shape for n, t in other.state_dict().items()
    }
    assert other.get_config()["image_shape"] == [2 * height, 2 * width, channels]
    changed = {n for n, t in other.state_dict().items() if t.shape != state[n].shape}
    assert changed
    assert all("position" in name for name in changed)
    assert all(torch.equal(t, state[n]) for n, t in other.state_dict().items() if n not in changed)
    other.save_to_preset(tmp_path / "other")
    oracle.keras_hub.models.Backbone.from_preset(str(tmp_path / "other"))
    with pytest.raises(ValueError, match="image_shape"):
        Backbone.from_preset(tmp_path, image_shape=(1, width, channels))
    with pytest.raises(ValueError, match="channels"):
        Backbone.from_preset(tmp_path, image_shape=(height, width, channels + 2))


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
    ResNetBackbone(
        [64], [7], [64], [1], [1], "basic_block", image_shape=(32, 32, 3)
    ).save_to_preset(tmp_path)
    model = Backbone.from_preset(tmp_path, image_shape=(40, 48, 3))
    assert model.image_shape == (40, 48, 3)
    assert not ResNetBackbone.resampled
    assert ViTBackbone.resampled
