"""Processors of transformers become converters, and converters processors."""

from __future__ import annotations

from . import oracle  # isort: skip  # noqa: F401  # before Keras

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from keras_hub_torch import layers, models
from keras_hub_torch import tokenizers as tokenizers_here
from keras_hub_torch.models import Backbone
from keras_hub_torch.preprocessing.images.foreign import timm_settings

from .cases import all_cases
from .checkpoints import all_inexpressible
from .test_tokenizers import pairs

RNG = np.random.default_rng(3)
SIDES = {"height": 30, "width": 30}
SMALL: dict[str, Any] = {"size": SIDES}
CUT: dict[str, Any] = {"size": {"shortest_edge": 30}, "crop_size": SIDES}
# Family and class of transformers, settings.
IMAGES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("vit", "ViT", {"size": {"height": 30, "width": 20}, "do_normalize": False}),
    "vit-0": ("vit", "ViT", {"size": {"height": 30, "width": 20}, "resample": 0}),
    "deit": ("deit", "DeiT", {**SMALL, "crop_size": SIDES}),
    "clip": ("clip", "CLIP", CUT),
    "metaclip2": ("metaclip_2", "CLIP", {**CUT, "resample": 2}),
    "siglip": ("siglip", "Siglip", {**SMALL, "do_rescale": False}),
    "paligemma": ("paligemma", "Siglip", SMALL),
    "segformer": ("segformer", "Segformer", SMALL),
    "swin": ("swin", "ViT", {**SMALL, "resample": 3, "rescale_factor": 1 / 127.5}),
    "resnet": ("resnet", "ConvNext", {"size": {"shortest_edge": 30}, "crop_pct": 1.0}),
    "resnet-384": ("resnet", "ConvNext", {"size": {"shortest_edge": 384}}),
    "dinov2": ("dinov2", "Bit", CUT),
    "blip2": ("blip-2", "Blip", SMALL),
    "gemma3": ("gemma3", "Gemma3", {**SMALL, "do_pan_and_scan": False}),
    "gemma3n": ("gemma3n", "Siglip", {**SMALL, "resample": 2}),
    "depth": ("depth_anything", "DPT", SMALL),
    "d_fine": ("d_fine", "RTDetr", SMALL),
}
IN_ALL = {"image_converter.json", "audio_converter.json"}


def picture(height: int, width: int) -> np.ndarray:
    """Smooth, with a little noise."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(y / 9 + x / 13), 40 + 150 * y / height, 200 - 150 * x / width]
    noise = RNG.integers(0, 4, (height, width, 3))
    return np.clip(np.stack(waves, -1) + noise, 0, 255).astype("uint8")


def pixels(processor: Any, image: np.ndarray) -> torch.Tensor:
    found = processor(image, return_tensors="pt", input_data_format="channels_last")
    return found["pixel_values"][0].movedim(0, -1)


def checkpoint(processor: Any, family: str, folder: Path) -> Path:
    processor.save_pretrained(folder)
    (folder / "config.json").write_text(
        json.dumps({"model_type": family, "audio_config": {"a": 1}})
    )
    return folder


def write(folder: Path, settings: dict[str, Any]) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("case", IMAGES)
def test_images(case: str, tmp_path: Path) -> None:
    """Pillow rounds behind each of the two directions, we behind both: two steps of 255. What is
    cut is cut before it is resized here, behind it there: they differ at the border, which sees
    what is beyond it there.
    """
    family, kind, settings = IMAGES[case]
    theirs = getattr(transformers, f"{kind}ImageProcessorPil")(**settings)
    folder = checkpoint(theirs, family, tmp_path)
    ours = layers.ImageConverter.from_preset(folder)
    step = 2.01 * float(np.max(1.0 if ours.scale is None else ours.scale))
    for size in ((60, 60), (60, 100)):  # of which a half, or no whole number, is no tie
        image = picture(*size)
        found, expected = ours(image).float(), pixels(theirs, image)
        if ours.fit == "crop":
            found, expected = found[2:-2, 2:-2], expected[2:-2, 2:-2]
        torch.testing.assert_close(found, expected, rtol=0, atol=step)
    assert ours.backbone == layers.ImageConverter.for_class(str(ours.backbone)).backbone

    write(folder, ours.to_transformers())
    again = transformers.AutoImageProcessor.from_pretrained(folder)
    torch.testing.assert_close(pixels(again, image), pixels(theirs, image), rtol=0, atol=1e-4)
    back = layers.ImageConverter.from_preset(folder)
    for name, value in ours.get_config().items():
        if name != "name":
            assert back.get_config()[name] == (pytest.approx(value) if name == "scale" else value)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("vit", {"size": SIDES, "do_pan_and_scan": True}, "do_pan_and_scan=True"),
        ("vit", {"size": 30, "resample": 1}, "resample=1"),
        ("deit", {}, "'height': 256.*margin is not cut"),
        ("clip", {"size": 40, "crop_size": 30}, "margin is not cut"),
        ("resnet", {"size": {"shortest_edge": 28}}, "shortest_edge': 32.*margin is not cut"),
        ("depth_anything", {"keep_aspect_ratio": True}, "keep_aspect_ratio=True"),
        ("sam", {"image_processor_type": "SamImageProcessorFast"}, "longest_edge.*zeros"),
        ("blip-2", {"image_mean": [0.5] * 3}, "image_mean.*offset=.*fixed here"),
        ("whisper", {"sampling_rate": 16000, "dither": 0.5}, "dither=0.5"),
        ("gemma4", {"sampling_rate": 16000, "preemphasis": 0.5}, "preemphasis=0.5"),
        ("moonshine", {"sampling_rate": 16000}, "do_normalize=True"),
    ],
)
def test_what_differs(family: str, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    """What can be said on one side only is named."""
    config = {"model_type": family, "audio_config": {"a": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write(tmp_path, {"do_rescale": True, **settings})
    cls = layers.AudioConverter if "sampling_rate" in settings else layers.ImageConverter
    with pytest.warns(UserWarning, match=message):
        cls.from_preset(tmp_path)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"image_processor_type": "ChameleonImageProcessor"}, NotImplementedError, "Chameleon"),
        ({"do_resize": True, "size": {"height": 10**12, "width": 3}}, ValueError, "size"),
        ({"do_resize": True, "size": {"height": 30}}, ValueError, "size"),
        ({"do_resize": True, "size": [30, 30]}, ValueError, "size"),
        ({"do_resize": True, "image_std": [0, 1, 1]}, ValueError, "image_std"),
        ({"do_resize": True, "image_mean": "a"}, ValueError, "image_mean"),
        ({"do_resize": True, "image_mean": [0.5] * 20_000}, ValueError, "image_"),
        ({"do_resize": True, "resample": "a"}, ValueError, "resample"),
        ({"a": 1}, FileNotFoundError, "neither"),
    ],
)
def test_bad_processors(
    settings: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    write(tmp_path, settings)
    with pytest.raises(error, match=message):
        layers.ImageConverter.from_preset(tmp_path)
    with pytest.raises(FileNotFoundError, match="no AudioConverter"):
        layers.AudioConverter.from_preset(tmp_path)


def test_patches(tmp_path: Path) -> None:
    """Two steps of 255, as above; sizes within the bounds, beyond which KerasHub rounds otherwise
    than transformers.
    """
    image = picture(97, 140)
    gemma = transformers.Gemma4ImageProcessorPil(max_soft_tokens=70)
    ours = layers.ImageConverter.from_preset(checkpoint(gemma, "gemma4", tmp_path / "gemma"))
    theirs, found = gemma(image, return_tensors="pt"), ours(image)
    torch.testing.assert_close(
        found["pixel_values"], theirs["pixel_values"][0], rtol=0, atol=2 / 255
    )
    assert torch.equal(found["pixel_position_ids"], theirs["image_position_ids"][0].int())
    again = transformers.Gemma4ImageProcessorPil(**ours.to_transformers())
    assert torch.equal(again(image, return_tensors="pt")["pixel_values"], theirs["pixel_values"])

    options = {"patch_size": 16, "size": {"shortest_edge": 4096, "longest_edge": 10**6}}
    qwen = transformers.Qwen2VLImageProcessorPil(**options)
    ours = layers.ImageConverter.from_preset(checkpoint(qwen, "qwen3_5", tmp_path / "qwen"))
    theirs, found = qwen(image, return_tensors="pt"), ours(image)
    assert torch.equal(found["grid_thw"], theirs["image_grid_thw"][0])
    # There patches are in squares that are merged, and channels come first.
    rows, columns = found["grid_thw"].tolist()[1:]
    patches = found["patches"].unflatten(0, (rows // 2, 2, columns // 2, 2)).transpose(1, 2)
    patches = patches.flatten(0, 3).movedim(-1, 1).flatten(1)
    torch.testing.assert_close(patches, theirs["pixel_values"], rtol=0, atol=2.01 * max(ours.scale))
    again = transformers.Qwen2VLImageProcessorPil(**ours.to_transformers())
    assert torch.equal(again(image, return_tensors="pt")["pixel_values"], theirs["pixel_values"])


MELS = {"feature_size": 20, "per_bin_mean": [0.5] * 20, "per_bin_stddev": [2.0] * 20}
SOUNDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "whisper": ("whisper", "Whisper", {"feature_size": 20, "chunk_length": 2}),
    "moonshine": ("moonshine", "Wav2Vec2", {"do_normalize": False, "padding_value": 0.5}),
    "gemma3n": ("gemma3n", "Gemma3nAudio", MELS),
    "gemma3n-other": ("gemma3n", "Gemma3nAudio", {"frame_length_ms": 20.0, "fft_overdrive": False}),
    "gemma4": ("gemma4", "Gemma4Audio", MELS),
    "gemma4-other": ("gemma4", "Gemma4Audio", {"hop_length_ms": 8.0, "fft_overdrive": True}),
}


@pytest.mark.parametrize("case", SOUNDS)
def test_sounds(case: str, tmp_path: Path) -> None:
    """1e-4: of a float32 transform under a logarithm."""
    family, kind, settings = SOUNDS[case]
    theirs = getattr(transformers, f"{kind}FeatureExtractor")(**settings)
    folder = checkpoint(theirs, family, tmp_path)
    ours = layers.AudioConverter.from_preset(folder)
    sines = 0.3 * np.sin(np.arange(17_000) * 0.1)
    clip = (sines + RNG.normal(0, 0.05, 17_000)).astype("float32")
    given = theirs([clip], sampling_rate=16_000, return_tensors="pt")
    expected = given[theirs.model_input_names[0]][0]
    found = ours(clip)
    found = found[0] if isinstance(found, tuple) else found
    if family == "whisper":
        expected = expected.T
    if family == "gemma4":  # there the last frames are 0, here all clips have one length
        count = int(given["input_features_mask"].sum())
        found, expected = found[:count], expected[:count]
    torch.testing.assert_close(found.squeeze(-1), expected, rtol=0, atol=1e-4)

    write(folder, ours.to_transformers())
    again = transformers.AutoFeatureExtractor.from_pretrained(folder)
    same = again([clip], sampling_rate=16_000, return_tensors="pt")[theirs.model_input_names[0]]
    torch.testing.assert_close(same, given[theirs.model_input_names[0]], rtol=0, atol=0)
    assert layers.AudioConverter.from_preset(folder).get_config() == {
        **ours.get_config(),
        **({"seed": pytest.approx(5e8, abs=5e8)} if family == "gemma3n" else {}),
    }


# Whole presets

EVEN = {"antialias": True, "crop_to_aspect_ratio": False, "interpolation": "bicubic"}
PLAIN = {"image_size": (30, 30), "scale": [1 / 127.5] * 3, "offset": [-1.0] * 3, **EVEN}
# Family → tokenizer, converter and its arguments, and what transformers makes of them.
PRESETS: dict[str, tuple[str | None, str, dict[str, Any], str]] = {
    "CLIP": ("CLIP", "Image", {**PLAIN, "crop_to_aspect_ratio": True}, "CLIPProcessor"),
    "PaliGemma": ("PaliGemma", "Image", PLAIN, "PaliGemmaProcessor"),
    "Gemma3": ("Gemma3", "Image", PLAIN, "Gemma3Processor"),
    "BLIP2": ("BLIP2FlanT5", "Image", {"image_size": (30, 30)}, "Blip2Processor"),
    "Moonshine": ("Moonshine", "Audio", {"padding_value": 0.5}, "Wav2Vec2Processor"),
    "ViT": (None, "Image", PLAIN, "ViTImageProcessorPil"),
}


@pytest.mark.parametrize("family", PRESETS)
def test_presets(family: str, tmp_path: Path) -> None:
    """A preset's converters go to transformers and come back as they were."""
    tokenizer, kind, arguments, expected = PRESETS[family]
    name = f"{family}{kind}Converter"
    cases = (case for case in all_cases() if case.cls == f"{family}Backbone")
    case = next(case for case in cases if case.id not in all_inexpressible())
    getattr(models, case.cls).from_config(case.config).save_to_preset(tmp_path / "ours")
    if tokenizer is not None:
        made = getattr(tokenizers_here, f"{tokenizer}Tokenizer")(
            *pairs()[f"{tokenizer}Tokenizer"][0]
        )
        made.save_to_preset(tmp_path / "ours")
    converter = getattr(layers, name)(**arguments)
    converter.save_to_preset(tmp_path / "ours")
    model = Backbone.from_preset(tmp_path / "ours")
    assert "preprocessor_config.json" in model.export_to_transformers(tmp_path / "theirs")
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path / "theirs")
    assert type(theirs).__name__ == expected
    if kind == "Image":
        image = picture(60, 60)
        found = pixels(getattr(theirs, "image_processor", theirs), image)
        atol = 2.01 * max(converter.scale)
        torch.testing.assert_close(found, converter(image), rtol=0, atol=atol)

    back = Backbone.from_preset(tmp_path / "theirs")
    file = f"{kind.lower()}_converter.json"
    assert file in back.save_to_preset(tmp_path / "back")
    once, again = (
        json.loads((tmp_path / folder / file).read_text()) for folder in ("ours", "back")
    )
    assert {**again["config"], "name": 0} == {**once["config"], "name": 0}
    preprocessor = models.Preprocessor.from_preset(tmp_path / "theirs")
    assert preprocessor.backbone == case.cls
    assert type(getattr(preprocessor, f"{kind.lower()}_converter")) is type(converter)
    # What transformers has said goes to transformers as it is.
    back.export_to_transformers(tmp_path / "more")
    for folder in ("theirs", "more"):
        assert (tmp_path / folder / "preprocessor_config.json").read_bytes() == (
            tmp_path / "theirs" / "preprocessor_config.json"
        ).read_bytes()


def test_what_transformers_cannot_say(tmp_path: Path) -> None:
    """A converter that stays behind takes nothing with it."""
    case = next(case for case in all_cases() if case.cls == "ViTBackbone")
    model = models.ViTBackbone.from_config(case.config)
    model.save_to_preset(tmp_path / "a")
    layers.ViTImageConverter((30, 20), scale=0.0, offset=1.0).save_to_preset(tmp_path / "a")
    model = Backbone.from_preset(tmp_path / "a")
    with pytest.warns(UserWarning, match="image_converter stays behind: With scale=0"):
        assert model.export_to_transformers(tmp_path / "b") == []
    layers.ViTImageConverter((30, 20)).save_to_preset(tmp_path / "a")
    with pytest.warns(UserWarning, match="crop_to_aspect_ratio=True.*; antialias=False"):
        assert model.export_to_transformers(tmp_path / "b") == ["preprocessor_config.json"]
    settings = layers.ViTImageConverter((30, 20), scale=1 / 255, **EVEN).to_timm()
    assert settings["mean"] == [0.0] * 3
    assert settings["std"] == [1.0] * 3
    with pytest.warns(UserWarning, match="antialias=False.*; pad_to_aspect_ratio=True"):
        timm_settings(
            layers.ImageConverter((3, 4), crop_to_aspect_ratio=False, pad_to_aspect_ratio=True)
        )


def test_several_converters(tmp_path: Path) -> None:
    """Of a Keras preset all go along, whatever encoder's they are."""
    case = next(case for case in all_cases() if case.cls == "ViTBackbone")
    models.ViTBackbone.from_config(case.config).save_to_preset(tmp_path / "a")
    layers.WhisperAudioConverter(max_audio_length=1).save_to_preset(tmp_path / "a")
    layers.ViTImageConverter((30, 20)).save_to_preset(tmp_path / "a")
    for name in ("clip_l_image_converter", "t5_preprocessor", "video_converter"):
        (tmp_path / "a" / f"{name}.json").write_text("{}")
    names = Backbone.from_preset(tmp_path / "a").save_to_preset(tmp_path / "b")
    assert len(names) == 5
    assert set(names) > IN_ALL
    assert {path.name for path in (tmp_path / "b").iterdir()} >= set(names)
