"""HGNetV2 from transformers and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from keras_hub_torch.models import Backbone, HGNetV2Backbone

from . import oracle
from .cases.hgnetv2 import config
from .checkpoints import make_model

CONFIG: dict[str, Any] = {
    "depths": [1, 2],
    "embedding_size": 8,
    "hidden_sizes": [10, 6],
    "hidden_act": "gelu",
    "stem_channels": [5, 6, 8],
    "num_channels": 5,
    "stage_in_channels": [8, 10],
    "stage_mid_channels": [4, 5],
    "stage_out_channels": [10, 6],
    "stage_num_blocks": [1, 2],
    "stage_downsample": [False, True],
    "stage_downsample_strides": [2, 2],
    "stage_light_block": [False, True],
    "stage_kernel_size": [3, 5],
    "stage_numb_of_layers": [2, 3],
    "use_learnable_affine_block": True,
    "out_features": ["stem", "stage2"],
}


def checkpoint(folder: Path, architecture: str = "HGNetV2Backbone", **changes: Any) -> Any:
    def statistics(model: torch.nn.Module) -> None:
        for name, buffer in model.named_buffers():
            if name.endswith(("mean", "var")):
                buffer.uniform_(0.5, 1.5)

    with torch.no_grad():
        model = make_model(architecture, {**CONFIG, **changes}, change=statistics)
    model.save_pretrained(folder)
    return model


def outputs_of(model: Any, images: torch.Tensor) -> dict[str, Any]:
    maps = model(images.permute(0, 3, 1, 2)).feature_maps
    named = zip(model.config.out_features, maps)
    return {name: features.permute(0, 2, 3, 1).numpy() for name, features in named}


@torch.no_grad()
@pytest.mark.parametrize("affine", [False, True])
def test_transformers(affine: bool, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "theirs", use_learnable_affine_block=affine)
    model = Backbone.from_preset(tmp_path / "theirs")
    images = torch.rand(2, 37, 42, 5)
    oracle.assert_close(model(images), outputs_of(theirs, images))

    model.export_to_transformers(tmp_path / "ours")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("theirs", "ours"))
    assert after.keys() == {name for name in before if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(after[name], before[name]) for name in after)
    again = transformers.HGNetV2Backbone.from_pretrained(tmp_path / "ours").eval()
    oracle.assert_close(model(images), outputs_of(again, images))
    assert Backbone.from_preset(tmp_path / "ours").get_config() == model.get_config()


@torch.no_grad()
def test_head_is_dropped(tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path, "HGNetV2ForImageClassification", num_labels=3)
    model = Backbone.from_preset(tmp_path)
    images = torch.rand(1, 33, 40, 5)
    hidden = theirs(images.permute(0, 3, 1, 2), output_hidden_states=True).hidden_states
    oracle.assert_close(model(images)["stage2"], oracle.named(hidden[-1].permute(0, 2, 3, 1)))


@torch.no_grad()
def test_numbers_without_effect(tmp_path: Path) -> None:
    """Where KerasHub looks at images and layers, transformers looks at the configuration."""
    stages = [[8, 2, 6, 1, 1, 3], [9, 2, 4, 1, 1, 3]]
    model = HGNetV2Backbone(
        **config(stages, apply_downsample=[True, False], image_shape=(None, None, 1))
    ).eval()
    model.export_to_transformers(tmp_path)
    theirs = transformers.HGNetV2Backbone.from_pretrained(tmp_path).eval()
    images = torch.rand(1, 33, 40, 1)
    oracle.assert_close(model(images), outputs_of(theirs, images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem_strides": [2, 1, 1, 1, 1]}, r"stem_strides is \[2, 1, 1, 1, 1\]"),
        ({"stage_downsample_strides": [2, 1]}, r"only 2 can be computed"),
        ({"num_channels": 3}, "begins with other than num_channels 3"),
        ({"stage_kernel_size": [3]}, "are of different lengths"),
        ({"hidden_act": "silu"}, "hidden_act='silu' must be one of"),
    ],
)
def test_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "hgnet_v2", **CONFIG, **changes})
    )
    with pytest.raises(ValueError, match=message):
        Backbone.from_preset(tmp_path, load_weights=False)


def test_defaults(tmp_path: Path) -> None:
    """transformers' are those of B4."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hgnet_v2"}))
    model = Backbone.from_preset(tmp_path, load_weights=False, device="meta")
    with torch.device("meta"):
        theirs = transformers.HGNetV2Backbone(transformers.HGNetV2Config())
    buffers = (b for name, b in theirs.named_buffers() if not name.endswith("tracked"))
    assert model.count_params() == theirs.num_parameters() + sum(b.numel() for b in buffers)


def test_narrower_stages_are_not_in_transformers(tmp_path: Path) -> None:
    stages = [[8, 2, 6, 1, 1, 3], [3, 2, 4, 1, 1, 3]]
    with pytest.raises(ValueError, match="a stage of fewer channels"):
        HGNetV2Backbone(**config(stages)).export_to_transformers(tmp_path / "new")
