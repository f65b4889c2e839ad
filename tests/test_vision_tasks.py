"""Preprocessors of images, compared with KerasHub's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from keras_hub_torch import layers, models
from keras_hub_torch.preprocessing import steps

from .oracle import keras, keras_hub
from .test_converters import check_equal, pixels

CLASSES = {k: c for k, c in steps().items() if c.__module__.endswith("preprocessing.vision")}
SIZED = {"image_size": (5, 6), "scale": 0.5}


def both(name: str, converter: str, **config: Any) -> tuple[Any, Any]:
    """Ours and KerasHub's."""
    keras.utils.clear_session(free_memory=False)
    options = {key: config.pop(key) for key in ("resize_output_mask",) if key in config}
    ours = CLASSES[name](image_converter=getattr(layers, converter)(**config), **options)
    theirs = getattr(keras_hub.layers, converter)(**config)
    return ours, getattr(keras_hub.models, name)(image_converter=theirs, **options)


@pytest.mark.parametrize("name", CLASSES)
def test_class(name: str) -> None:
    keras.utils.clear_session(free_memory=False)
    theirs = getattr(keras_hub.models, name)
    expected = keras.saving.serialize_keras_object(theirs())
    expected.pop("build_config", None)
    assert json.loads(json.dumps(CLASSES[name]().serialize())) == expected
    assert CLASSES[name].backbone == getattr(theirs.backbone_cls, "__name__", None)


def test_classifier() -> None:
    ours, theirs = both("ViTImageClassifierPreprocessor", "ViTImageConverter", **SIZED)
    images, labels = pixels(2, 9, 7, 3), np.array([3, 1])
    check_equal(ours(images), theirs(images))
    for mine in (ours(images, labels), ours((images, labels)), ours(list(zip(images, [3, 1])))):
        check_equal(mine[0], theirs(images))
        assert mine[1].tolist() == [3, 1]
    assert len(ours(images, labels, np.ones(2))) == 3
    data = [(pixels(7 + i, 9, 3), i) for i in range(4)]
    batches = list(DataLoader(data, batch_size=2, collate_fn=ours, num_workers=1))
    assert [batch.tolist() for _, batch in batches] == [[0, 1], [2, 3]]
    assert batches[0][0].shape == (2, 5, 6, 3)


def test_segmenter() -> None:
    images, masks = pixels(2, 9, 7, 3), pixels(2, 9, 7, 1)
    for resized in (False, True):
        ours, theirs = both(
            "DeepLabV3ImageSegmenterPreprocessor",
            "DeepLabV3ImageConverter",
            resize_output_mask=resized,
            **SIZED,
        )
        for found, expected in zip(ours(images, masks), theirs(images, masks)):
            check_equal(found, torch.as_tensor(expected))
        pair = ours([(images[0], masks[0]), (images[1], masks[1])])
        check_equal(pair[1], ours(images, masks)[1])


def test_detector() -> None:
    config = {**SIZED, "crop_to_aspect_ratio": False, "pad_to_aspect_ratio": True}
    ours, theirs = both("RetinaNetObjectDetectorPreprocessor", "RetinaNetImageConverter", **config)
    images = pixels(2, 9, 7, 3)
    boxes = {
        "boxes": np.array([[[1, 2, 5, 6], [0, 0, 3, 3]], [[2, 2, 6, 6], [-1] * 4]], "float32"),
        "labels": np.array([[1, 2], [3, -1]]),
    }
    expected = theirs(images, {key: value.copy() for key, value in boxes.items()})
    for found, one in zip(ours(images, boxes), expected):
        check_equal(found, one)
    check_equal(ours(images), theirs(images))
    rows = [(images[i], {key: value[i] for key, value in boxes.items()}) for i in range(2)]
    check_equal(ours(rows)[1], expected[1])


def test_prompts_of_sam() -> None:
    ours, theirs = both("SAMImageSegmenterPreprocessor", "SAMImageConverter", **SIZED)
    sample = {"images": pixels(2, 9, 7, 3), "points": np.ones((2, 1, 2), "float32")}
    check_equal(ours(sample), theirs(dict(sample)))
    with pytest.raises(ValueError, match="'images' and prompts"):
        ours(sample["images"])


def test_presets(tmp_path: Path) -> None:
    _, theirs = both("ResNetImageClassifierPreprocessor", "ResNetImageConverter", **SIZED)
    theirs.save_to_preset(str(tmp_path))
    (tmp_path / "config.json").write_text('{"registered_name": "keras_hub>ResNetBackbone"}')
    images = pixels(9, 7, 3)
    for cls in (models.ImageClassifierPreprocessor, models.ResNetImageClassifierPreprocessor):
        loaded = cls.from_preset(tmp_path)
        assert type(loaded) is models.ResNetImageClassifierPreprocessor
        check_equal(loaded(images), theirs(images))
    loaded.save_to_preset(tmp_path / "ours")
    for name in ("preprocessor.json", "image_converter.json"):
        saved = json.loads((tmp_path / name).read_text())
        assert json.loads((tmp_path / "ours" / name).read_text()) == saved
    (tmp_path / "preprocessor.json").unlink()
    check_equal(models.ImageClassifierPreprocessor.from_preset(tmp_path)(images), theirs(images))
