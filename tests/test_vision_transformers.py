"""What vision transformers refuse, and images with their channels first."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import keras_hub_torch.models as models

from . import oracle
from .cases import depth_anything, dinov2, sam, segformer, swin_transformer, vit, vit_det
from .cases.retinanet import encoder

FIRST = {"data_format": "channels_first"}
DEPTH = depth_anything.CASES[0].config
CONFIGS: dict[str, dict[str, Any]] = {
    "DepthAnythingBackbone": DEPTH,
    "DINOV2Backbone": dinov2.CASES[0].config,
    "SAMBackbone": sam.CASES[0].config,
    "SwinTransformerBackbone": swin_transformer.CASES[0].config,
    "ViTBackbone": vit.CASES[0].config,
    "ViTDetBackbone": vit_det.CASES[0].config,
}


@pytest.mark.parametrize(
    ("cls", "change", "words"),
    [
        ("DepthAnythingBackbone", {"image_encoder": encoder()}, ["DINOV2Backbone, not a ResNet"]),
        (
            "DepthAnythingBackbone",
            {"image_encoder": segformer.CASES[0].config["image_encoder"]},
            ["DINOV2Backbone, not a MiT"],
        ),
        (
            "DepthAnythingBackbone",
            {"feature_keys": ["stem", "stage1", "stage9"]},
            ["feature_keys", "stage9", "stem, stage1, stage2"],
        ),
        ("DepthAnythingBackbone", {"reassemble_factors": [2, 1]}, ["equally long", "[2, 1]"]),
        ("DepthAnythingBackbone", {"reassemble_factors": [2, 0.4, 1]}, ["whole", "6 × 6"]),
        ("DepthAnythingBackbone", {"head_in_index": 3}, ["head_in_index=3", "3 maps"]),
        ("SAMBackbone", {"image_encoder": encoder()}, ["ViTDetBackbone, not a ResNet"]),
        ("ViTBackbone", {"image_shape": (9, 8, 3)}, ["height that is a multiple", "9"]),
        ("ViTDetBackbone", {"image_shape": (12, 8, 3)}, ["(12, 8, 3)", "equal width"]),
        ("ViTDetBackbone", {"num_heads": 4}, ["hidden_size=6 is not divisible by num_heads=4"]),
        ("SwinTransformerBackbone", {"image_shape": (26, 12, 3)}, ["13 patches", "2 stages"]),
        ("DINOV2Backbone", {"image_shape": (3, 8, 3)}, ["(3, 8, 3)", "at least a patch, 4"]),
        ("DINOV2Backbone", {"position_embedding_shape": (8,)}, ["(8,)", "a height and a width"]),
    ],
)
def test_bad_arguments(cls: str, change: dict[str, Any], words: list[str]) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=re.escape(words[0])) as raised:
        getattr(models, cls)(**{**CONFIGS[cls], **change})
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("cls", [cls for cls in CONFIGS if cls != "SAMBackbone"])
def test_bad_sizes(cls: str) -> None:
    """Nothing is computed of images that are no multiple of a patch, or of other channels."""
    model = getattr(models, cls)(**CONFIGS[cls])
    for part in model.modules():
        if not list(part.children()):
            part.register_forward_pre_hook(lambda *args: pytest.fail("something was computed"))
    for shape in ((2, 25, 13, 3), (2, 24, 24, 4)):
        with pytest.raises(ValueError, match=re.escape(f"those of shape {shape} are")):
            model(torch.zeros(shape))


@torch.no_grad()
def test_swin_with_channels_first() -> None:
    """KerasHub fails with it."""
    config = CONFIGS["SwinTransformerBackbone"]
    last = models.SwinTransformerBackbone(**config).eval()
    first = models.SwinTransformerBackbone(**{**config, **FIRST, "image_shape": (3, 24, 12)}).eval()
    first.load_state_dict(last.state_dict())
    images = torch.rand(2, 24, 12, 3)
    oracle.assert_close(first(images.permute(0, 3, 1, 2)), oracle.named(last(images)))
    assert models.SwinTransformerBackbone(**first.get_config()).data_format == "channels_first"


@torch.no_grad()
def test_depth_with_channels_first(tmp_path: Path) -> None:
    shape = {"image_shape": (3, 24, 24), "position_embedding_shape": (3, 24, 24)}
    inner = DEPTH["image_encoder"]
    encoder = {**inner, "config": {**inner["config"], **shape}}
    first = models.DepthAnythingBackbone(**{**DEPTH, **FIRST, "image_encoder": encoder}).eval()
    last = models.DepthAnythingBackbone(**DEPTH).eval()
    first.load_state_dict(last.state_dict())
    first.save_to_preset(tmp_path)
    images = torch.rand(2, 24, 24, 3)
    for model in (first, models.Backbone.from_preset(tmp_path)):
        depths = model(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        oracle.assert_close(depths, oracle.named(last(images)))
    config = json.loads((tmp_path / "config.json").read_text())
    for one in (config["config"], config["config"]["image_encoder"]["config"]):
        del one["data_format"]  # as KerasHub writes it
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = models.Backbone.from_preset(tmp_path, data_format="channels_first")
    assert again.get_config() == first.get_config()
    with pytest.raises(ValueError, match="image_encoder has data_format='channels_last'"):
        models.DepthAnythingBackbone(**{**DEPTH, **FIRST, "image_encoder": last.image_encoder})
    larger = models.Backbone.from_preset(tmp_path, image_shape=(3, 28, 36), **FIRST)
    assert larger(torch.rand(1, 3, 28, 36)).shape == (1, 1, 28, 36)
