"""Models on another one's feature maps: RetinaNet, DeepLabV3 and BASNet."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import torch

import keras_hub_torch.models as models
from keras_hub_torch.presets.keras.tree import keras_tree

from . import oracle
from .cases import basnet, deeplab_v3, retinanet
from .cases.retinanet import encoder

BASNET = {"image_encoder": encoder(input_conv_filters=[64]), "num_classes": 2}


def test_default_heads_are_kerashubs() -> None:
    keras.utils.clear_session()
    theirs = keras_hub.models.BASNetBackbone(
        keras.saving.deserialize_keras_object(BASNET["image_encoder"]), 2
    )
    with torch.device("meta"):
        ours = models.BASNetBackbone(**BASNET)
    expected = json.loads(json.dumps(theirs.get_config()))
    for name in ("prediction_heads", "refinement_head"):
        assert ours.get_config()[name] == expected[name]
    with torch.device("meta"):
        again = models.BASNetBackbone.from_config(ours.get_config())
    numbered = [layer.name for layer in theirs.layers if layer.name.startswith("conv2d")]
    for model in (ours, again):
        children = keras_tree(model).children
        assert [one.name for one in children if one.name.startswith("conv2d")] == numbered


CONFIGS: dict[str, dict[str, Any]] = {
    "RetinaNetBackbone": retinanet.config(),
    "DeepLabV3Backbone": deeplab_v3.config(),
    "BASNetBackbone": BASNET,
}
GRAY = encoder(image_shape=[None, None, 1])
FIRST = encoder(image_shape=[3, None, None], data_format="channels_first")
CSPNET = {
    "stem_filters": 8,
    "stem_kernel_size": 3,
    "stem_strides": 2,
    "stackwise_depth": [1, 1, 1, 1],
    "stackwise_strides": [1, 2, 2, 2],
    "stackwise_num_filters": [8, 4, 6, 4],
    "block_type": "dark_block",
    "stage_type": "cs3",
    "block_ratio": 0.5,
}


@pytest.mark.parametrize(("name", "config"), [("ResNet", FIRST["config"]), ("CSPNet", CSPNET)])
def test_channels_first(name: str, config: dict[str, Any], tmp_path: Path) -> None:
    """KerasHub saves no data_format of RetinaNet and ResNet: given once, it is that of both."""
    given = {"data_format": "channels_first", "image_shape": (3, None, None)}
    keras_encoder = getattr(keras_hub.models, f"{name}Backbone")(
        **{**config, **given, "dtype": "float32"}
    )
    theirs = keras_hub.models.RetinaNetBackbone(keras_encoder, 3, 6, False, **given)
    oracle.randomise(theirs, np.random.default_rng(0), 0.15)
    theirs.save_to_preset(str(tmp_path / "theirs"))
    ours = models.Backbone.from_preset(tmp_path / "theirs", data_format="channels_first")
    images = np.random.default_rng(0).uniform(0, 1, (1, 3, 64, 61)).astype("float32")
    expected = oracle.keras_outputs(theirs, images)
    ours.save_to_preset(tmp_path / "ours")
    for model in (ours, models.Backbone.from_preset(tmp_path / "ours")):
        with torch.no_grad():
            oracle.assert_close(model(images), expected)


def test_layers_that_keras_numbers(tmp_path: Path) -> None:
    """Some of an encoder's are in the pyramid's graph, the others are left over."""
    encoder = keras_hub.models.MiTBackbone(
        [1, 1, 1], 3, [1, 2, 1], [2, 1, 1], 0.1, [7, 3, 3], [4, 2, 2], (64, 64, 3), [4, 6, 8]
    )
    theirs = keras_hub.models.RetinaNetBackbone(encoder, 1, 2, False, image_shape=(64, 64, 3))
    oracle.randomise(theirs, np.random.default_rng(0), 0.15)
    theirs.save_to_preset(str(tmp_path))
    images = np.random.default_rng(0).uniform(0, 1, (1, 64, 64, 3)).astype("float32")
    with torch.no_grad():
        outputs = models.Backbone.from_preset(tmp_path)(images)
    oracle.assert_close(outputs, oracle.keras_outputs(theirs, images))


@pytest.mark.parametrize(
    ("cls", "change", "words"),
    [
        ("RetinaNetBackbone", {"min_level": 8}, ["min_level=8", "max_level=7"]),
        ("RetinaNetBackbone", {"min_level": 1}, ["min_level=1", "P2, P3"]),
        (
            "RetinaNetBackbone",
            {"image_encoder": FIRST},
            ["image_encoder has data_format='channels_first'"],
        ),
        ("RetinaNetBackbone", {"image_encoder": GRAY}, ["image_shape", "3 channels"]),
        ("DeepLabV3Backbone", {"low_level_feature_key": "P7"}, ["'P7'", "P2, P3"]),
        ("DeepLabV3Backbone", {"spatial_pyramid_pooling_key": "C"}, ["'C'", "P2, P3"]),
        ("DeepLabV3Backbone", {"upsampling_size": 99}, ["upsampling_size=99", "at most"]),
        ("BASNetBackbone", {"image_encoder": GRAY}, ["image_shape=(None, None, 3)", "1)"]),
        ("BASNetBackbone", {"projection_filters": 5}, ["projection_filters=5", "=64"]),
        ("BASNetBackbone", {"prediction_heads": []}, ["prediction_heads", "not 0"]),
        (
            "BASNetBackbone",
            {"refinement_head": basnet.head("h", basnet.layer("Dense", "d", units=3))},
            ["refinement_head", "'Dense'", "Conv2D"],
        ),
        (
            "BASNetBackbone",
            {"prediction_heads": [basnet.layer("Conv2D", "c")]},
            ["prediction_heads[0]", "'Conv2D'", "Sequential"],
        ),
        (
            "BASNetBackbone",
            {"refinement_head": basnet.head("h", basnet.layer("ReLU", "r", threshold=0.5))},
            ["refinement_head", "threshold=0.5"],
        ),
        (
            "BASNetBackbone",
            {"image_encoder": encoder(use_pre_activation=True)},
            ["image_encoder", "use_pre_activation"],
        ),
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
        ("BASNetBackbone", (64, 48), ["divisible by 32", "64 × 48"]),
    ],
)
def test_bad_sizes(cls: str, size: tuple[int, int], words: list[str]) -> None:
    with torch.device("meta"):
        model = getattr(models, cls)(**CONFIGS[cls])
        with pytest.raises(ValueError, match=re.escape(words[0])) as raised:
            model(torch.zeros(1, *size, 3))
    for word in words:
        assert word in str(raised.value)
