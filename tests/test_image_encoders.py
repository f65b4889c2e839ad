"""Models on another one's feature maps: RetinaNet and DeepLabV3."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import keras_hub_torch.models as models

from .cases import deeplab_v3, retinanet
from .cases.retinanet import encoder


@pytest.mark.parametrize("size", [(29, 48), (32, 61), (63, 127), (33, 100)])
def test_sizes_of_levels(size: tuple[int, int]) -> None:
    dense = models.DenseNetBackbone([1, 1, 1, 1], growth_rate=2)
    res = models.ResNetBackbone(**encoder()["config"])
    for model in (dense, res):
        outputs = model.pyramid_outputs(torch.zeros(1, *size, 3))
        for level in model.pyramid_levels():
            assert level.size(*size) == tuple(outputs[level.name].shape[1:3])


CONFIGS: dict[str, dict[str, Any]] = {
    "RetinaNetBackbone": retinanet.config(),
    "DeepLabV3Backbone": deeplab_v3.config(),
}
GRAY = encoder(image_shape=[None, None, 1])


@pytest.mark.parametrize(
    ("cls", "change", "words"),
    [
        ("RetinaNetBackbone", {"min_level": 8}, ["min_level=8", "max_level=7"]),
        ("RetinaNetBackbone", {"min_level": 1}, ["min_level=1", "P2, P3"]),
        (
            "RetinaNetBackbone",
            {"data_format": "channels_first", "image_shape": (3, None, None)},
            ["data_format", "image_encoder"],
        ),
        ("RetinaNetBackbone", {"image_encoder": GRAY}, ["image_shape", "3 channels"]),
        ("DeepLabV3Backbone", {"low_level_feature_key": "P7"}, ["'P7'", "P2, P3"]),
        ("DeepLabV3Backbone", {"spatial_pyramid_pooling_key": "C"}, ["'C'", "P2, P3"]),
    ],
)
def test_bad_arguments(cls: str, change: dict[str, Any], words: list[str]) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=re.escape(words[0])) as raised:
        getattr(models, cls)(**{**CONFIGS[cls], **change})
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("cls", "size", "words"),
    [
        ("RetinaNetBackbone", (64, 48), ["P4", "P5", "64 × 48", "32"]),
        ("DeepLabV3Backbone", (48, 40), ["upsampling_size=4", "48 × 40", "16"]),
    ],
)
def test_bad_sizes(cls: str, size: tuple[int, int], words: list[str]) -> None:
    with torch.device("meta"):
        model = getattr(models, cls)(**CONFIGS[cls])
        with pytest.raises(ValueError, match=re.escape(words[0])) as raised:
            model(torch.zeros(1, *size, 3))
    for word in words:
        assert word in str(raised.value)
