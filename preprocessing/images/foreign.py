"""Image processors of transformers, and what timm says of pixels, as an `ImageConverter`'s
arguments and back.

Both look at all pixels when they shrink an image (`antialias`), and round in between if it is one
of bytes; so do these converters, within a step of 255 for each of the two directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .._checkpoint import Checkpoint, differs, setting


class Pixels(Protocol):
    """What an `ImageConverter` is set to."""

    image_size: Any
    scale: Any
    offset: Any
    interpolation: str
    antialias: bool

    @property
    def fit(self) -> str: ...


# Filters as Pillow numbers them.
FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
NUMBERS = {name: number for number, name in FILTERS.items()}
BYTE = 1 / 255
DIGITS = 10  # of means and deviations: more are errors of rounding
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def square(side: int) -> dict[str, int]:
    """A size in transformers' words."""
    return {"height": side, "width": side}


def cut(side: int) -> dict[str, Any]:
    """The middle of what is resized by its shorter side."""
    return {"size": {"shortest_edge": side}, "do_center_crop": True, "crop_size": square(side)}


# Generic ones can do both, whatever the family.
GENERIC = "CLIPImageProcessor"
CROPS = (GENERIC, "BitImageProcessor")
# What the model's `Processor` needs, or that does more than to resize: no other one will do.
FIXED = ("Gemma3ImageProcessor", "SamImageProcessor", "Sam3ImageProcessor")
# Written instead of those that cut as they like, or that need torchvision.
INSTEAD = {"ConvNextImageProcessor": GENERIC, "DINOv3ViTImageProcessor": "ViTImageProcessor"}
# What they do where a file does not say.
DEFAULTS: dict[str, dict[str, Any]] = {
    "BitImageProcessor": {**cut(224), "resample": 3, **CLIP},
    "BlipImageProcessor": {"size": square(384), "resample": 3, **CLIP},
    "CLIPImageProcessor": {**cut(224), "resample": 3, **CLIP},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 384}, "resample": 3, **HALF}
    | {"crop_pct": 224 / 256},
    "DINOv3ViTImageProcessor": {"size": square(224), "resample": 2, **IMAGENET},
    "DPTImageProcessor": {"size": square(384), "resample": 3, **HALF},
    "DeiTImageProcessor": {"size": square(256), "crop_size": square(224), "resample": 3, **HALF}
    | {"do_center_crop": True},
    "Gemma3ImageProcessor": {"size": square(224), "resample": 2, **HALF},
    "RTDetrImageProcessor": {"size": square(640), "resample": 2, **IMAGENET}
    | {"do_normalize": False},
    "Sam3ImageProcessor": {"size": square(1008), "resample": 2, **HALF},
    "SamImageProcessor": {"size": {"longest_edge": 1024}, "resample": 2, **IMAGENET}
    | {"do_pad": True, "pad_size": square(1024)},
    "SegformerImageProcessor": {"size": square(512), "resample": 2, **IMAGENET},
    "SiglipImageProcessor": {"size": square(224), "resample": 3, **HALF},
    "ViTImageProcessor": {"size": square(224), "resample": 2, **HALF},
}
ALL = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": BYTE}
KNOWN = (
    *("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_pad", "do_convert_rgb"),
    *("do_sample_frames", "do_convert_annotations"),  # by whoever reads the video, and of boxes
)


# From transformers


def arguments_of(checkpoint: Checkpoint, default: str) -> dict[str, Any]:
    """The arguments of a converter for the image processor of a checkpoint, of timm too.

    Args:
        default: the class of the image processor, where the checkpoint names none.

    Raises:
        FileNotFoundError: it has none.
        ValueError: it has one whose settings cannot be read.
        NotImplementedError: it has one of a class that is not known.
    """
    if checkpoint.is_timm:
        return _of_timm(checkpoint)
    name, settings, notes = settings_of(checkpoint, "image_converter", default, DEFAULTS)
    if name == "ConvNextImageProcessor":
        settings |= _as_convnext(settings)
    squares = "height" in DEFAULTS[name]["size"]
    found = {
        **_geometry(settings, squares, notes),
        **normalized(settings),
        "interpolation": interpolation_of(settings, notes),
        "antialias": True,
    }
    differs(f"The {name} of {checkpoint.source.handle}", notes)
    return found


def settings_of(
    checkpoint: Checkpoint, kind: str, default: str, known: Mapping[str, Mapping[str, Any]]
) -> tuple[str, dict[str, Any], list[str]]:
    """The class of a processor of images, or videos, its settings, and those without a meaning.

    Args:
        kind: of the converter.
        default: the class, where the checkpoint names none.
        known: classes that it may be of, and their settings where a file does not say.
    """
    given = checkpoint.settings(kind)
    name = class_of(given) or default
    if name not in known:
        raise NotImplementedError(
            f"{checkpoint.source.handle} has a {name}; of it no {kind} can be made, but of "
            f"{', '.join(known)}."
        )
    said = {key: value for key, value in given.items() if value is not None}
    notes = [
        f"{key}=True has no meaning here"
        for key, value in given.items()
        if value is True and key.startswith(("do_", "reduce_")) and key not in KNOWN
    ]
    return name, {**ALL, **known[name], **said}, notes


def class_of(settings: Mapping[str, Any]) -> str:
    """The class of a processor, as version 5 of transformers calls it."""
    name = settings.get("video_processor_type")
    if name is not None:
        return str(name)
    name = settings.get("image_processor_type") or settings.get("feature_extractor_type") or ""
    stem = str(name).removesuffix("Fast").removesuffix("Pil")
    return stem.removesuffix("FeatureExtractor") + "ImageProcessor" * stem.endswith(
        "FeatureExtractor"
    )


def normalized(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`scale` and `offset` for `(pixel · rescale_factor - mean) / deviation`."""
    factor = setting(settings, "rescale_factor", float, int) if settings["do_rescale"] else None
    if not settings["do_normalize"]:
        return {"scale": factor, "offset": None}
    means = _numbers(settings, "image_mean")
    deviations = _numbers(settings, "image_std")
    if 0 in deviations or len(means) != len(deviations):
        raise ValueError(f"image_std cannot be {deviations} with the image_mean {means}.")
    scale = [(1 if factor is None else factor) / deviation for deviation in deviations]
    return {"scale": scale, "offset": [-m / one for m, one in zip(means, deviations)]}


def _numbers(settings: Mapping[str, Any], name: str) -> list[float]:
    value = setting(settings, name, list, float, int)
    numbers = value if isinstance(value, list) else [value] * 3
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in numbers):
        raise ValueError(f"{name} of the preprocessor's configuration cannot be {value!r}.")
    return numbers


def interpolation_of(settings: Mapping[str, Any], notes: list[str]) -> str:
    """The filter by its name here; bicubic, with a note, where there is no such one."""
    number = setting(settings, "resample", int)
    if number not in FILTERS:
        notes.append(f"resample={number}, a filter that is not there: bicubic here")
    return FILTERS.get(number, "bicubic")


def _as_convnext(settings: Mapping[str, Any]) -> dict[str, Any]:
    """In other words: it cuts small images only."""
    side = _sides(settings["size"], "size", squares=False).get("shortest_edge")
    if side is None or side >= 384:
        return {"size": settings["size"] if side is None else square(side)}
    longer = int(side / float(setting(settings, "crop_pct", float, int)))
    return {**cut(side), "size": {"shortest_edge": longer}}


def _geometry(settings: Mapping[str, Any], squares: bool, notes: list[str]) -> dict[str, Any]:
    """Size, and how another aspect ratio is met.

    Args:
        squares: whether a number stands for both sides, not for the shorter one.
    """
    crop = None
    if settings.get("do_center_crop"):
        found = _sides(settings.get("crop_size"), "crop_size")
        crop = (found["height"], found["width"])
    if not settings["do_resize"]:
        if crop is not None:
            notes.append(f"crop_size={crop} without do_resize: nothing is cut here")
        return _fit("crop", None)
    size = settings["size"]
    sides = _sides(size, "size", squares)
    if "longest_edge" in sides and "shortest_edge" not in sides:
        return _padded(settings, sides["longest_edge"], notes)
    if settings.get("do_pad"):
        notes.append(f"do_pad=True, pad_size={settings.get('pad_size')}: nothing is added here")
    if "shortest_edge" in sides:
        shorter = sides["shortest_edge"]
        target = crop or (shorter, shorter)
        if crop is None or "longest_edge" in sides:
            notes.append(f"size={size}: images of all ratios become {target} here")
        elif crop != (shorter, shorter):
            notes.append(f"size={size} before crop_size={crop}: the margin is not cut off here")
        return _fit("crop", target)
    if settings.get("keep_aspect_ratio"):
        more = f" and ensure_multiple_of={settings.get('ensure_multiple_of', 1)}"
        target = (sides["height"], sides["width"])
        notes.append(f"keep_aspect_ratio=True{more}: images of all ratios become {target} here")
        return _fit("crop", target)
    if crop is not None and crop != (sides["height"], sides["width"]):
        notes.append(f"size={size} before crop_size={crop}: the margin is not cut off here")
    return _fit("stretch", crop or (sides["height"], sides["width"]))


def _padded(settings: Mapping[str, Any], longest: int, notes: list[str]) -> dict[str, Any]:
    """What is resized by its longer side, and filled up to a square."""
    size = (longest, longest)
    if settings.get("do_pad"):
        sides = _sides(settings.get("pad_size"), "pad_size")
        size = (sides["height"], sides["width"])
    notes.append(
        f"size={settings['size']} and pad_size={settings.get('pad_size')}: zeros are put around "
        "before scaling here, not behind it at the right and below"
    )
    return _fit("pad", size)


def _fit(fit: str, size: tuple[int, int] | None) -> dict[str, Any]:
    return {
        "image_size": size,
        "crop_to_aspect_ratio": fit == "crop",
        "pad_to_aspect_ratio": fit == "pad",
    }


def _sides(size: Any, name: str, squares: bool = True) -> dict[str, int]:
    """A size in whatever form; in old files it is a number."""
    if isinstance(size, int) and not isinstance(size, bool):
        size = square(size) if squares else {"shortest_edge": size}
    if isinstance(size, Mapping):
        found = {str(key): value for key, value in size.items() if value is not None}
        whole = all(isinstance(one, int) and 0 < one < 2**20 for one in found.values())
        edges = {"shortest_edge", "longest_edge"} & found.keys()
        if whole and (edges or {"height", "width"} <= found.keys()):
            return found
    raise ValueError(f"{name} of the preprocessor's configuration cannot be {size!r}.")


# To transformers


def processor_of(converter: Pixels, name: str) -> dict[str, Any]:
    """The configuration of an image processor that makes the same pixels.

    Args:
        name: of its class, if that can.
    """
    notes: list[str] = []
    name = INSTEAD.get(name, name)
    fit, size = converter.fit, converter.image_size
    found: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_resize": size is not None,
        "resample": NUMBERS[converter.interpolation],
        "do_center_crop": False,
        **means_of(converter.scale, converter.offset),
    }
    if size is not None:
        sides = {"height": size[0], "width": size[1]}
        kind = f"{fit}_to_aspect_ratio={fit != 'stretch'}"
        if name == "SamImageProcessor":
            notes.append(f"{kind}: there zeros are put at the right and below, behind scaling")
            found |= {"size": {"longest_edge": max(size)}, "do_pad": True, "pad_size": sides}
        elif fit == "crop" and size[0] == size[1] and name not in FIXED:
            name = name if name in CROPS else GENERIC
            found |= cut(size[0])
        else:
            found["size"] = sides
            if fit != "stretch":
                notes.append(f"{kind}: there images are stretched")
    note_aliasing(converter, notes)
    differs(f"The {name} for this {type(converter).__name__}", notes)
    return {"image_processor_type": name, **found}


def note_aliasing(converter: Pixels, notes: list[str]) -> None:
    """Note that transformers shrinks images in another way, where it does."""
    if converter.interpolation != "nearest" and not converter.antialias:
        notes.append("antialias=False: there all pixels are looked at when an image shrinks")


def means_of(scale: Any, offset: Any) -> dict[str, Any]:
    """`scale` and `offset` in transformers' words."""
    if offset is None and not isinstance(scale, Sequence):
        factor = BYTE if scale is None else float(scale)
        normal = {"do_rescale": scale is not None, "rescale_factor": factor}
        return {**normal, "do_normalize": False}
    count = max((len(one) for one in (scale, offset) if isinstance(one, Sequence)), default=3)
    scales, offsets = (
        [float(one) for one in value] if isinstance(value, Sequence) else [float(value)] * count
        for value in (1.0 if scale is None else scale, 0.0 if offset is None else offset)
    )
    if 0 in scales:
        raise ValueError(f"With scale={scale} all images are equal; nothing else can say that.")
    deviations = [round(BYTE / one, DIGITS) for one in scales]
    return {
        "do_rescale": True,
        "rescale_factor": BYTE,
        "do_normalize": True,
        "image_mean": [round(-m * BYTE / one, DIGITS) for m, one in zip(offsets, scales)],
        "image_std": deviations,
    }


# timm

FITS = {"center": "crop", "squash": "stretch", "border": "pad"}


def _of_timm(checkpoint: Checkpoint) -> dict[str, Any]:
    given = checkpoint.config.get("pretrained_cfg")
    if not isinstance(given, Mapping) or "input_size" not in given:
        raise FileNotFoundError(f"{checkpoint.source.handle} does not say what pixels it takes.")
    size = setting(given, "input_size", list)
    if size is None or len(size) != 3 or not all(isinstance(side, int) for side in size):
        raise ValueError(f"input_size of config.json cannot be {size!r}.")
    height, width = size[1:]
    notes = []
    share = setting(given, "crop_pct", float, int)
    share = 1.0 if share is None else share
    mode = given.get("crop_mode") or "center"
    if mode not in FITS:
        raise ValueError(f"crop_mode of config.json cannot be {mode!r}: {', '.join(FITS)}.")
    if not math.isclose(share, 1.0):
        notes.append(f"crop_pct={share}: the margin is not cut off here")
    if mode == "border":
        notes.append("crop_mode='border': around an image are zeros here, not the mean")
    interpolation = given.get("interpolation") or "bilinear"
    if interpolation not in NUMBERS:
        notes.append(f"interpolation={interpolation!r}, which is not there: bicubic here")
        interpolation = "bicubic"
    differs(f"What {checkpoint.source.handle} says of pixels", notes)
    names = {"image_mean": "mean", "image_std": "std"}
    colours = {ours: given.get(name, IMAGENET[ours]) for ours, name in names.items()}
    return {
        **_fit(FITS[mode], (height, width)),
        **normalized({**ALL, **colours}),
        "interpolation": interpolation,
        "antialias": True,
    }


def timm_settings(converter: Pixels, channels: int = 3) -> dict[str, Any]:
    """What `pretrained_cfg` says for the same pixels."""
    notes: list[str] = []
    note_aliasing(converter, notes)
    if converter.fit == "pad":
        notes.append("pad_to_aspect_ratio=True: around an image is the mean there")
    colours = means_of(converter.scale, converter.offset)
    if not colours["do_normalize"]:
        factor = colours["rescale_factor"] if colours["do_rescale"] else 1.0
        colours |= {"image_mean": [0.0] * channels}
        colours |= {"image_std": [round(BYTE / factor, DIGITS)] * channels}
    found = {
        "mean": colours["image_mean"],
        "std": colours["image_std"],
        "interpolation": converter.interpolation,
        "crop_pct": 1.0,
        "crop_mode": next(mode for mode, fit in FITS.items() if fit == converter.fit),
    }
    if converter.image_size is not None:
        found["input_size"] = [channels, *converter.image_size]
    else:
        notes.append("image_size=None: there all images get one size")
    differs("What timm is told of pixels", notes)
    return found
