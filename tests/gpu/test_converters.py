"""Pixels and sound that are on a GPU stay there."""

from __future__ import annotations

import torch

from keras_hub_torch import layers

from .precision import DEVICE


def test_images_stay() -> None:
    images = torch.randint(0, 256, (2, 37, 29, 3), dtype=torch.uint8)
    for options in (
        {"interpolation": "bicubic", "antialias": True},
        {"interpolation": "nearest", "scale": [0.1, 0.2, 0.3], "offset": -1.0},
        {"crop_to_aspect_ratio": False, "pad_to_aspect_ratio": True},
    ):
        converter = layers.ImageConverter(image_size=(16, 24), **options)  # type: ignore[arg-type]
        found, expected = converter(images.to(DEVICE)), converter(images)
        assert found.device.type == DEVICE.type
        # A half may be rounded either way.
        assert (found.cpu().float() - expected.float()).abs().max() <= 1.0
    boxes = {"boxes": torch.tensor([[[1.0, 2, 9, 9]]] * 2), "labels": torch.ones(2, 1).long()}
    converter = layers.ImageConverter(image_size=(16, 24), bounding_box_format="rel_xywh")
    sample = {"images": images, "bounding_boxes": boxes, "segmentation_masks": images[..., 0]}
    moved = {
        "images": images.to(DEVICE),
        "bounding_boxes": {key: value.to(DEVICE) for key, value in boxes.items()},
        "segmentation_masks": images[..., 0].to(DEVICE),
    }
    found, expected = converter(moved), converter(sample)
    assert torch.equal(found["segmentation_masks"].cpu(), expected["segmentation_masks"])
    for key, value in expected["bounding_boxes"].items():
        assert found["bounding_boxes"][key].device.type == DEVICE.type
        torch.testing.assert_close(found["bounding_boxes"][key].cpu(), value)


def test_patches_stay() -> None:
    image = torch.rand(40, 50, 3) * 255
    for converter in (layers.Gemma4ImageConverter(patch_size=2, max_soft_tokens=6),
                      layers.Qwen3_5ImageConverter(patch_size=2, min_pixels=64)):  # fmt: skip
        found, expected = converter(image.to(DEVICE)), converter(image)
        for key, value in expected.items():
            assert found[key].device.type == DEVICE.type
            torch.testing.assert_close(found[key].cpu(), value, atol=1e-2, rtol=1e-4)


def test_sound_stays() -> None:
    sound = torch.randn(2, 9000) * 0.1
    for converter in (layers.WhisperAudioConverter(max_audio_length=1),
                      layers.Gemma4AudioConverter(max_audio_length=1),
                      layers.MoonshineAudioConverter(do_normalize=True)):  # fmt: skip
        found, expected = converter(sound.to(DEVICE)), converter(sound)
        assert found.device.type == DEVICE.type
        torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)
