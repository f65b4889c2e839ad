"""Pixels and sound: converters compared with KerasHub's, what they take and what they refuse."""

from __future__ import annotations

import json
import pickle
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from keras_hub_torch import layers
from keras_hub_torch.preprocessing import layers as all_layers
from keras_hub_torch.preprocessing._converter import Converter
from keras_hub_torch.presets import builtin

from .oracle import keras, keras_hub

RNG = np.random.default_rng(0)
CONVERTERS = {k: cls for k, cls in all_layers().items() if issubclass(cls, Converter)}
GEMMA3N = {
    "feature_size": 9,
    "sampling_rate": 1600,
    "padding_value": 0.1,
    "return_attention_mask": True,
    "frame_length_ms": 32.0,
    "hop_length_ms": 10.0,
    "min_frequency": 12.0,
    "max_frequency": 760.0,
    "preemphasis": 0.97,
    "preemphasis_htk_flavor": True,
    "fft_overdrive": True,
    "dither": 1e-3,
    "input_scale_factor": 1.5,
    "mel_floor": 1e-4,
    "per_bin_mean": [0.25] * 9,
    "per_bin_stddev": [2.0] * 9,
    "padding_side": "left",
    "seed": 5,
}
REQUIRED = {"Gemma3nAudioConverter": GEMMA3N}


def both(name: str, **config: Any) -> tuple[Any, Any]:
    """Ours and KerasHub's."""
    keras.utils.clear_session(free_memory=False)
    theirs = getattr(keras_hub.layers, name, None) or getattr(keras_hub.models, name)
    return CONVERTERS[name](**config), theirs(**config)


def pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return RNG.uniform(0, 255, shape).astype(dtype)


def check_equal(ours: Any, theirs: Any, tolerance: float = 0.0) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            check_equal(ours[key], theirs[key], tolerance)
        return
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert (ours.double() - theirs.double()).abs().max() <= tolerance


# Those of a later KerasHub are compared elsewhere.
KNOWN = [name for name in CONVERTERS if hasattr(keras_hub.layers, name)]


@pytest.mark.parametrize("name", KNOWN)
def test_class(name: str) -> None:
    ours, theirs = both(name, **REQUIRED.get(name, {}))
    expected = keras.saving.serialize_keras_object(theirs)
    expected.pop("build_config", None)
    assert json.loads(json.dumps(ours.serialize())) == json.loads(json.dumps(expected))
    if name != "Gemma4VideoConverter":  # KerasHub's is for no backbone
        assert ours.backbone == getattr(theirs.backbone_cls, "__name__", None)


@pytest.mark.parametrize("name", ["SAM3ImageConverter", "AudioConverter"])
def test_built_in_presets(name: str) -> None:
    known = {id for id in CONVERTERS[name].presets if builtin.version_of(id) is None}
    assert known == getattr(keras_hub.layers, name).presets.keys()


def test_no_class_is_missing() -> None:
    names = {name for name in dir(keras_hub.layers) if name.endswith("Converter")}
    assert names <= CONVERTERS.keys()


# Pixels

PER_CHANNEL = {"scale": [0.1, -0.2, 0.3], "offset": [1.0, 0.0, -0.5]}
SETTINGS = {
    "crop": ({"image_size": (5, 8), **PER_CHANNEL}, pixels(2, 17, 9, 3)),
    "pad": (
        {"image_size": (9, 5), "crop_to_aspect_ratio": False, "pad_to_aspect_ratio": True}
        | PER_CHANNEL,
        pixels(1, 6, 11, 3, dtype="float32"),
    ),
    "bicubic": (
        {"image_size": (7, 9), "interpolation": "bicubic", "crop_to_aspect_ratio": False},
        pixels(2, 4, 13, 4),
    ),
    "antialias": (
        {"image_size": (3, 4), "interpolation": "bicubic", "antialias": True, "scale": 0.5},
        pixels(31, 20, 3, dtype="float64"),
    ),
    "bilinear-antialias": (
        {"image_size": (4, 9), "antialias": True, "dtype": "bfloat16", "offset": -2.0},
        pixels(2, 11, 13, 1, dtype="float32"),
    ),
    "nearest": (
        {"image_size": (6, 5), "interpolation": "nearest", "antialias": True},
        pixels(13, 4, 3, dtype="int64"),
    ),
    "channels-first": (
        {"image_size": (6, 5), "data_format": "channels_first", **PER_CHANNEL},
        pixels(2, 3, 9, 4, dtype="int32"),
    ),
    "no-size": ({"scale": 2.0, "offset": [1.0, 2.0, 3.0], "dtype": "float16"}, pixels(2, 5, 6, 1)),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_images(setting: str) -> None:
    config, images = SETTINGS[setting]
    ours, theirs = both("ImageConverter", **config)
    check_equal(ours(images), theirs(images))


FORMATS = ("xyxy", "yxyx", "xywh", "center_xywh", "center_yxhw", "rel_xyxy", "rel_yxyx", "rel_xywh")


@pytest.mark.parametrize("box_format", [*FORMATS, "rel_center_xywh"])
def test_boxes_and_masks(box_format: str) -> None:
    fit = FORMATS.index(box_format) % 3 if box_format in FORMATS else 0
    ours, theirs = both(
        "ImageConverter",
        image_size=(7, 5),
        crop_to_aspect_ratio=fit == 0,
        pad_to_aspect_ratio=fit == 1,
        bounding_box_format=box_format,
    )
    boxes = RNG.uniform(-3, 20, (2, 3, 4)).astype("float32")
    boxes[0, 0], boxes[1, 1] = -1, 0
    if box_format.startswith("rel"):
        boxes /= 16

    def sample() -> dict[str, Any]:
        return {
            "images": images,
            "bounding_boxes": {"boxes": boxes.copy(), "labels": labels.copy()},
            "segmentation_masks": masks,
            "labels": np.array([3, 1]),
        }

    images, masks = pixels(2, 9, 16, 3), pixels(2, 9, 16, 1)
    labels = RNG.integers(0, 5, (2, 3))
    check_equal(ours(sample()), theirs(sample()))
    flat = ours({"images": images, "segmentation_masks": masks[..., 0]})["segmentation_masks"]
    assert torch.equal(flat, ours(sample())["segmentation_masks"][..., 0])


def test_samples_of_several_sizes() -> None:
    converter = layers.ImageConverter(image_size=(5, 5), bounding_box_format="xyxy")
    images = [pixels(9, 7, 3), pixels(4, 8, 3)]
    boxes = [[[1, 1, 4, 4], [2, 2, 3, 3]], [[0, 0, 2, 2]]]
    labels = [[1, 2], [3]]
    batch = converter(
        {
            "images": images,
            "bounding_boxes": {"boxes": boxes, "labels": labels},
            "segmentation_masks": [image[..., :1] for image in images],
            "labels": [1, 0],
            "paths": ["a", "b"],
        }
    )
    assert batch["paths"] == ["a", "b"]
    assert batch["bounding_boxes"]["labels"].tolist() == [[1, 2], [3, -1]]
    for i in range(2):
        one = converter(
            {
                "images": images[i],
                "bounding_boxes": {"boxes": boxes[i], "labels": labels[i]},
                "segmentation_masks": images[i][..., :1],
            }
        )
        check_equal(batch["images"][i], one["images"])
        check_equal(batch["segmentation_masks"][i], one["segmentation_masks"])
        found = batch["bounding_boxes"]["boxes"][i][: len(boxes[i])]
        check_equal(found, one["bounding_boxes"]["boxes"])


PATCHES = {
    "gemma4": ("Gemma4ImageConverter", (2, 30, 41, 3), {"patch_size": 4, "max_soft_tokens": 5}),
    "gemma4-small": (
        "Gemma4ImageConverter",
        (1, 5, 23, 3),
        {"patch_size": 2, "max_soft_tokens": 4, "pooling_kernel_size": 2, **PER_CHANNEL},
    ),
    "qwen3_5": ("Qwen3_5ImageConverter", (30, 41, 3), {"patch_size": 4, "min_pixels": 2000}),
    "qwen3_5-large": (
        "Qwen3_5MoeImageConverter",
        (33, 70, 3),
        {"patch_size": 3, "temporal_patch_size": 3, "min_pixels": 9, "max_pixels": 900}
        | {"interpolation": "bicubic", "antialias": True, **PER_CHANNEL},
    ),
    "gemma4-video": (
        "Gemma4VideoConverter",
        (2, 5, 12, 19, 3),
        {"patch_size": 3, "max_soft_tokens": 6, "num_frames": 3, "scale": 0.5},
    ),
    "qwen3_5-video": (
        "Qwen3_5VideoConverter",
        (3, 25, 31, 3),
        {"patch_size": 3, "min_pixels": 9, "max_pixels": 999, **PER_CHANNEL},
    ),
    "video": ("VideoConverter", (2, 3, 9, 8, 3), {"image_size": (4, 5), **PER_CHANNEL}),
    "blip2": ("BLIP2ImageConverter", (2, 9, 8, 3), {"image_size": (6, 5)}),
    "gemma3": ("Gemma3ImageConverter", (9, 8, 3), {"image_size": (6, 5), "dtype": "float16"}),
}


@pytest.mark.parametrize("case", PATCHES)
def test_patches(case: str) -> None:
    name, shape, config = PATCHES[case]
    ours, theirs = both(name, **config)
    images = pixels(*shape)
    check_equal(ours(images), theirs(images))


def test_several_images_in_patches() -> None:
    gemma4 = layers.Gemma4ImageConverter(patch_size=2, max_soft_tokens=6)
    images = [pixels(19, 8, 3), pixels(11, 30, 3)]
    batch = gemma4({"images": images, "prompts": "a"})
    assert batch["prompts"] == "a"
    assert batch["pixel_values"].shape == (2, 54, 12)
    check_equal(gemma4(images[1])["pixel_values"], batch["pixel_values"][1])
    qwen = layers.Qwen3_5ImageConverter(patch_size=2, min_pixels=64)
    both_images = qwen(images)
    single = [qwen(image) for image in images]
    assert both_images["grid_thw"].tolist() == [one["grid_thw"].tolist() for one in single]
    check_equal(both_images["patches"], torch.cat([one["patches"] for one in single]))


def test_pictures(tmp_path: Path) -> None:
    from PIL import Image

    array = pixels(9, 7, 3)
    Image.fromarray(array).save(tmp_path / "picture.png")
    Image.fromarray(array[..., 0]).save(tmp_path / "grey.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown a quarter turned
    Image.fromarray(array).save(tmp_path / "turned.png", exif=turned)
    converter = layers.ImageConverter(image_size=(4, 5), scale=1 / 255)
    expected = converter(array)
    readonly = array[::-1, :, ::-1]
    readonly.setflags(write=False)
    assert torch.equal(converter(readonly.copy()), converter(readonly))
    for same in (
        torch.from_numpy(array),
        array.tolist(),
        Image.fromarray(array),
        tmp_path / "picture.png",
        str(tmp_path / "picture.png"),
    ):
        assert torch.equal(converter(same), expected)
    grey = np.repeat(array[..., :1], 3, -1)
    mixed = converter([tmp_path / "picture.png", torch.from_numpy(array), tmp_path / "grey.png"])
    assert torch.equal(mixed, torch.stack([expected, expected, converter(grey)]))
    rotated = converter(np.rot90(array, -1))
    assert torch.equal(converter(tmp_path / "turned.png"), rotated)
    unscaled = layers.ImageConverter()([array, array[:3]])
    assert [tuple(image.shape) for image in unscaled] == [(9, 7, 3), (3, 7, 3)]
    videos = torch.from_numpy(pixels(2, 3, 9, 7, 3))
    assert torch.equal(converter(videos)[1], converter(videos[1]))


def test_images_in_workers() -> None:
    converter = layers.ResNetImageConverter(image_size=(4, 5), scale=1 / 255)
    data = [pixels(6 + i, 9, 3) for i in range(4)]
    loader = DataLoader(data, batch_size=2, collate_fn=converter, num_workers=1)
    assert torch.equal(torch.cat(list(loader)), converter(data))
    again = pickle.loads(pickle.dumps(converter))
    assert torch.equal(again(data[0]), converter(data[0]))


def test_width_of_one_pixel() -> None:
    """PyTorch's antialiasing is wrong there for images in the order of channels_last."""
    converter = layers.ImageConverter(image_size=(4, 1), antialias=True, crop_to_aspect_ratio=False)
    image = pixels(9, 8, 3, dtype="float32")
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(), (4, 1), mode="bilinear",
        align_corners=False, antialias=True,
    )  # fmt: skip
    assert torch.equal(converter(image), expected[0].permute(1, 2, 0))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros(5, "uint8"), ValueError, "3 axes"),
        (np.zeros((4, 5, 7), "uint8"), ValueError, "7 channels"),
        (np.zeros((3, 0, 5, 3), "uint8"), ValueError, "no pixel"),
        (np.zeros((4, 5, 2), "uint8"), ValueError, "2 channels"),
        ([], ValueError, "empty"),
        ({"image": 3}, ValueError, "'images'"),
        (None, TypeError, "NoneType"),
        (b"png", TypeError, "bytes"),
        (np.zeros((2, 2, 3), complex), TypeError, "complex"),
        (np.array([["a"]]), TypeError, "real numbers"),
        ("nowhere.png", FileNotFoundError, "nowhere.png"),
        (__file__, OSError, "cannot be read as a picture"),
    ],
)
def test_bad_images(images: Any, error: type[Exception], message: str) -> None:
    converter = layers.ImageConverter(image_size=(3, 4), scale=[0.1, 0.2, 0.3])
    with pytest.raises(error, match=message):
        converter(images)


def test_bad_options() -> None:
    for options, message in (
        ({"pad_to_aspect_ratio": True}, "both"),
        ({"interpolation": "lanczos3"}, "nearest, bilinear, bicubic"),
        ({"bounding_box_format": "xy"}, "center_xywh"),
        ({"image_size": (0, 5)}, "from 1 to"),
        ({"image_size": (10**9, 10**9)}, "from 1 to"),
        ({"image_size": (5,)}, "height and a width"),
        ({"data_format": "first"}, "channels_first"),
    ):
        with pytest.raises(ValueError, match=message):
            layers.ImageConverter(**options)
    with pytest.raises(TypeError, match="did you mean 'antialias'"):
        layers.ImageConverter(antialais=True)
    with pytest.raises(ValueError, match="'boxes' and 'labels'"):
        layers.ImageConverter((3, 4))({"images": pixels(5, 6, 3), "bounding_boxes": {"boxes": []}})


# Sound


def waves(*shape: int) -> np.ndarray:
    sines = np.sin(np.arange(shape[-1]) * 0.3)
    return (0.3 * sines + RNG.normal(0, 0.1, shape)).astype("float32")


SOUNDS = {
    "whisper": (
        "WhisperAudioConverter",
        {"num_mels": 20, "num_fft_bins": 101, "stride": 33, "sampling_rate": 1600}
        | {"max_audio_length": 2},
        {},
    ),
    "moonshine": (
        "MoonshineAudioConverter",
        {"padding_value": 0.5, "do_normalize": True},
        {"padding": "max_length", "max_length": 1990, "pad_to_multiple_of": 7},
    ),
    "moonshine-cut": (
        "MoonshineAudioConverter",
        {},
        {"padding": "max_length", "max_length": 1650, "sampling_rate": 16000},
    ),
    "gemma4": (
        "Gemma4AudioConverter",
        {"num_mels": 9, "sampling_rate": 1600, "max_audio_length": 2, "max_frequency": 800.0}
        | {"num_fft_bins": 200, "frame_length": 111, "per_bin_mean": [0.5] * 9}
        | {"per_bin_stddev": [1.5] * 9},
        {},
    ),
    "gemma4-cut": (
        "Gemma4AudioConverter",
        {"sampling_rate": 1600, "max_audio_length": 1, "max_frequency": 800.0}
        | {"num_mels": 5, "num_fft_bins": 99, "frame_length": None, "stride": 50},
        {},
    ),
    "gemma3n": ("Gemma3nAudioConverter", GEMMA3N, {"max_length": 1500}),
    "gemma3n-right": (
        "Gemma3nAudioConverter",
        {**GEMMA3N, "padding_side": "right", "preemphasis_htk_flavor": False, "dither": 0.0},
        {"padding": "max_length", "max_length": 3000, "pad_to_multiple_of": None},
    ),
}


@pytest.mark.filterwarnings("ignore:Of .* seconds of sound")
@pytest.mark.parametrize("case", SOUNDS)
def test_sounds(case: str) -> None:
    name, config, options = SOUNDS[case]
    ours, theirs = both(name, **config)
    sound = waves(2, 1700)
    found, expected = ours(sound, **options), theirs(sound, **options)
    if isinstance(expected, tuple):
        assert torch.equal(found[1], expected[1])
        found, expected = found[0], expected[0]
    check_equal(found, expected, 1e-4)
    assert ours.audio_shape() == theirs.audio_shape()


def test_clips_of_several_lengths(tmp_path: Path) -> None:
    samples = (waves(1700) * 20_000).astype(np.int16)
    for name, rate in (("clip.wav", 1600), ("fast.wav", 3200)):
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
    clip = samples.astype(np.float32) / 32768
    config = {"num_mels": 7, "sampling_rate": 1600, "max_audio_length": 2}
    whisper = layers.WhisperAudioConverter(**config)
    expected = whisper(clip)
    assert torch.equal(whisper(tmp_path / "clip.wav"), expected)
    assert torch.equal(whisper({"array": clip, "sampling_rate": 1600}), expected)
    several = [clip.tolist(), torch.from_numpy(clip[:900]), tmp_path / "clip.wav"]
    batch = pickle.loads(pickle.dumps(whisper))(several)
    assert torch.equal(batch, torch.stack([expected, whisper(clip[:900]), expected]))
    theirs = keras_hub.layers.WhisperAudioConverter(**config)([clip, clip[:900]])
    check_equal(batch[:2], theirs, 1e-4)
    gemma = layers.Gemma3nAudioConverter(**GEMMA3N)
    features, mask = gemma([clip[:900], clip], pad_to_multiple_of=None)
    alone, _ = gemma(clip)
    assert features.shape[:2] == mask.shape
    assert mask.sum(1).tolist() == [len(range(800, 16 * len(mask[1]), 16)), len(mask[1])]
    assert alone.shape[-1] == 9
    moonshine = layers.MoonshineAudioConverter(sampling_rate=1600)
    assert moonshine([clip, clip[:900]]).shape == (2, 1700, 1)
    with pytest.warns(UserWarning, match="0.1 to 64 seconds"):
        moonshine(clip[:100])
    for wrong in (tmp_path / "fast.wav", {"array": clip, "sampling_rate": 3200}):
        with pytest.raises(ValueError, match="3200 samples per second; there must be 1600"):
            whisper(wrong)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_widths_of_wav_files(tmp_path: Path, width: int) -> None:
    highest = 2 ** (8 * width - 1)
    numbers = np.array([0.0, 0.5, -1.0, 0.25])
    whole = (numbers * highest).astype(np.int64) + (128 if width == 1 else 0)
    with wave.open(str(tmp_path / "clip.wav"), "wb") as file:
        file.setparams((1, width, 40, 0, "NONE", ""))
        data = b"".join(int(n).to_bytes(width, "little", signed=width > 1) for n in whole.tolist())
        file.writeframes(data)
    found = layers.MoonshineAudioConverter(sampling_rate=40)(tmp_path / "clip.wav")
    assert found[:, 0].tolist() == numbers.tolist()
    data = bytearray((tmp_path / "clip.wav").read_bytes())
    data[40:44] = b"\xf0\xff\xff\xff"  # as if there were four gigabytes
    (tmp_path / "long.wav").write_bytes(data)
    assert torch.equal(
        layers.MoonshineAudioConverter(sampling_rate=40)(tmp_path / "long.wav"), found
    )


@pytest.mark.parametrize(
    ("sound", "error", "message"),
    [
        (np.zeros((500, 2), "float32"), ValueError, "one channel"),
        (np.zeros((1, 5, 5, 1), "float32"), ValueError, "one channel"),
        (np.zeros((2, 0), "float32"), ValueError, "no samples"),
        (np.zeros((0, 5), "float32"), ValueError, "empty"),
        ([], ValueError, "no samples"),
        (np.zeros(500, "int16"), TypeError, "divide int16 by 32768"),
        (None, TypeError, "NoneType"),
        (b"RIFF", TypeError, "bytes"),
        ([[0.5, 0.5], ["a"]], TypeError, "real numbers"),
        (__file__, ValueError, "no wav file"),
        ("nowhere.wav", FileNotFoundError, "nowhere"),
    ],
)
def test_bad_sounds(sound: Any, error: type[Exception], message: str) -> None:
    converter = layers.WhisperAudioConverter(max_audio_length=1)
    with pytest.raises(error, match=message):
        converter(sound)


def test_bad_sound_options() -> None:
    whisper = layers.WhisperAudioConverter
    for options in ({"stride": 0}, {"num_mels": 10**9}, {"max_audio_length": 10**9}):
        with pytest.raises(ValueError, match=r"from 1 to|may have 1 to"):
            whisper(**options)
    with pytest.raises(ValueError, match="half a window"):
        whisper(sampling_rate=100, max_audio_length=2)
    with pytest.raises(ValueError, match="8000 samples per second"):
        whisper(max_audio_length=1)(waves(500), sampling_rate=8000)
    gemma = layers.Gemma3nAudioConverter(**GEMMA3N)
    with pytest.raises(ValueError, match="one length"):
        gemma([waves(500), waves(600)], padding=False)
    with pytest.raises(ValueError, match="Clips of 0 samples; they may have"):
        gemma(waves(500), max_length=-5)
    for length in (0, 2**40):
        with pytest.raises(ValueError, match="samples; they may have 1 to"):
            layers.MoonshineAudioConverter()(waves(2000), padding="max_length", max_length=length)


@pytest.mark.parametrize(
    ("name", "config", "options"),
    [
        ("Whisper", {"max_audio_length": 1}, {}),
        ("Gemma4", {"max_audio_length": 1, "max_frequency": 800.0}, {}),
        ("Gemma3n", {**GEMMA3N, "max_frequency": 800.0}, {"max_length": 1600}),
    ],
)
def test_sound_that_is_too_long(name: str, config: Any, options: Any) -> None:
    converter = getattr(layers, f"{name}AudioConverter")(**{**config, "sampling_rate": 1600})
    with pytest.warns(UserWarning, match=r"Of 1\.2 seconds of sound the first 1\.0 are taken"):
        converter(waves(2000), **options)


# Presets


@pytest.mark.parametrize("name", ["ViTImageConverter", "BLIP2ImageConverter"])
def test_presets(tmp_path: Path, name: str) -> None:
    config = {"image_size": (6, 5), "antialias": True}
    ours, theirs = both(name, **config)
    theirs.save_to_preset(tmp_path)
    saved = (tmp_path / "image_converter.json").read_text()
    loaded = layers.ImageConverter.from_preset(tmp_path)
    assert type(loaded) is type(ours)
    images = pixels(2, 9, 8, 3)
    check_equal(loaded(images), theirs(images))
    loaded.save_to_preset(tmp_path / "ours")
    again = json.loads((tmp_path / "ours/image_converter.json").read_text())
    assert again == json.loads(saved)
    check_equal(keras.saving.deserialize_keras_object(again)(images), theirs(images))
    other = type(ours).from_preset(tmp_path, image_size=(3, 4))
    assert other.image_size == (3, 4)
    with pytest.raises(ValueError, match="not a ResNetImageConverter"):
        layers.ResNetImageConverter.from_preset(tmp_path)
    with pytest.raises(TypeError, match="did you mean 'image_size'"):
        layers.ImageConverter.from_preset(tmp_path, imagesize=3)


def test_preset_within_a_preprocessor(tmp_path: Path) -> None:
    _, theirs = both("WhisperAudioConverter", num_mels=5)
    inner = keras.saving.serialize_keras_object(theirs)
    (tmp_path / "preprocessor.json").write_text(json.dumps({"config": {"audio_converter": inner}}))
    assert layers.AudioConverter.from_preset(tmp_path).num_mels == 5
    with pytest.raises(FileNotFoundError, match="no image_converter"):
        layers.ImageConverter.from_preset(tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Gemma4ImageConverter", {"patch_size": 10**9}, "patch_size must be from 1 to"),
        ("Gemma4ImageConverter", {"max_soft_tokens": 16_000, "patch_size": 999}, "are the most"),
        ("Qwen3_5ImageConverter", {"min_pixels": 10**11}, "are the most"),
        ("Gemma4VideoConverter", {"num_frames": 10**6}, "num_frames must be from 1 to"),
        ("ResNetImageConverter", {"scale": [1.0] * 20_000}, "10,000 are the most"),
        ("ResNetImageConverter", {"scale": "a"}, "scale must be"),
        ("ResNetImageConverter", {"dtype": "int9"}, "Unknown dtype 'int9'"),
        ("WhisperAudioConverter", {"num_fft_bins": 10**9}, "num_fft_bins must be from 1 to"),
        ("Gemma4AudioConverter", {"min_frequency": -9000.0}, "min_frequency=-9000.0"),
        ("Gemma4AudioConverter", {"per_bin_mean": [1.0]}, "1 means or deviations for 128"),
        ("MoonshineAudioConverter", {"sampling_rate": 0}, "sampling_rate must be from 1 to"),
    ],
)
def test_hostile_presets(tmp_path: Path, name: str, options: Any, message: str) -> None:
    cls = CONVERTERS[name]
    config = {"registered_name": f"keras_hub>{name}", "config": options}
    (tmp_path / cls.config_file).write_text(json.dumps(config))
    with pytest.raises((ValueError, TypeError), match=message):
        cls.from_preset(tmp_path)


def test_lost_options_are_kept(tmp_path: Path) -> None:
    layers.Gemma4ImageConverter(max_soft_tokens=9).save_to_preset(tmp_path)
    assert layers.ImageConverter.from_preset(tmp_path).max_soft_tokens == 9
    layers.ViTImageConverter(data_format="channels_first").save_to_preset(tmp_path)
    assert layers.ImageConverter.from_preset(tmp_path).data_format == "channels_first"


def test_oldest_presets() -> None:
    old = {"height": 4, "width": 5, "scale": 1 / 255, "mean": [0.4, 0.5], "variance": [0.04, 0.09]}
    ours = layers.PaliGemmaImageConverter.from_config(old)
    theirs = keras_hub.layers.PaliGemmaImageConverter(**old)
    images = pixels(7, 9, 2)
    check_equal(ours(images), theirs(images))
