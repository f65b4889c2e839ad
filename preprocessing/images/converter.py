"""Images resized and scaled as a backbone was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from ...backbones.layers.convolution import check_data_format
from .._arrays import as_tensor
from .._checkpoint import Checkpoint
from .._converter import Converter
from . import foreign
from .boxes import FORMATS, RELATIVE, resize_boxes
from .inputs import as_images
from .resizing import MODES, resize

ImageConverterType = TypeVar("ImageConverterType", bound="ImageConverter")
MAX_SIDE = 16_384
# What fills up boxes where images have different numbers of them.
NO_BOX = {"boxes": 0, "labels": -1}
# What each image has of its own, beside boxes.
BESIDE = ("labels", "segmentation_masks")


class ImageConverter(Converter):
    """Resizes images, then multiplies them by `scale`, then adds `offset`.

    Images are tensors, arrays, pictures of Pillow or paths: one `[height, width, channels]`, a
    batch, videos `[batch, frames, height, width, channels]`, or a list, of which the results are
    stacked where they have one size. Tensors stay on their device. Integers are rounded after
    resizing, as in Keras.

    Within a dictionary `{"images": …, "bounding_boxes": {"boxes": …, "labels": …},
    "segmentation_masks": …}` boxes and masks follow their images; boxes `[batch, n, 4]` that are
    all 0 or all -1 stand for none, labels of those that are out of sight become -1.

    Args:
        image_size: height and width of what it returns; `None` leaves them as they are.
        scale: a number, or one for each channel.
        offset: a number, or one for each channel.
        crop_to_aspect_ratio: whether what is too wide or too high is cut off, evenly.
        pad_to_aspect_ratio: whether zeros are put around instead, before scaling. With neither,
            images are stretched.
        interpolation: `nearest`, `bilinear` or `bicubic`.
        antialias: whether bilinear and bicubic look at all pixels when they shrink.
        bounding_box_format: `xyxy`, `yxyx`, `xywh`, `center_xywh`, `center_yxhw`, or one of them
            with `rel_` in front but for the last.
        data_format: `channels_last`, or `channels_first` of what it takes and returns.

    Raises:
        ValueError: options that do not go together, or that do not exist; images without pixels,
            of other ranks, or with more channels than `scale` has.
        TypeError: no images.
    """

    kind: ClassVar[str] = "image_converter"
    # In which it computes whatever it is asked for.
    fixed_dtype: ClassVar[str | None] = None
    # KerasHub does not save it.
    lost: ClassVar[Sequence[str]] = ("data_format",)
    # transformers' class for the family.
    processor: ClassVar[str] = foreign.GENERIC

    def __init__(
        self,
        image_size: Sequence[int] | None = None,
        scale: float | Sequence[float] | None = None,
        offset: float | Sequence[float] | None = None,
        crop_to_aspect_ratio: bool = True,
        pad_to_aspect_ratio: bool = False,
        interpolation: str = "bilinear",
        antialias: bool = False,
        bounding_box_format: str = "yxyx",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": self.fixed_dtype or kwargs.get("dtype")})
        if crop_to_aspect_ratio and pad_to_aspect_ratio:
            raise ValueError("crop_to_aspect_ratio and pad_to_aspect_ratio cannot both be True.")
        if interpolation not in MODES:
            raise ValueError(f"interpolation must be {', '.join(MODES)}, not {interpolation!r}.")
        if bounding_box_format.lower() not in FORMATS + RELATIVE:
            known = ", ".join(FORMATS + RELATIVE)
            raise ValueError(f"bounding_box_format must be {known}, not {bounding_box_format!r}.")
        check_data_format(data_format or "channels_last")
        self.image_size = image_size
        self.scale = scale
        self.offset = offset
        self.crop_to_aspect_ratio = crop_to_aspect_ratio
        self.pad_to_aspect_ratio = pad_to_aspect_ratio
        self.interpolation = interpolation
        self.antialias = antialias
        self.bounding_box_format = bounding_box_format
        self.data_format = data_format

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of what it returns; another one can be set."""
        return self._image_size

    @image_size.setter
    def image_size(self, value: Sequence[int] | None) -> None:
        size = None if value is None else tuple(map(int, value))
        if size is not None and (len(size) != 2 or not all(0 < side <= MAX_SIDE for side in size)):
            raise ValueError(
                f"image_size must be a height and a width from 1 to {MAX_SIDE:,}, not {value}."
            )
        self._image_size: tuple[int, int] | None = size

    @property
    def fit(self) -> str:
        """How another aspect ratio is met: by `crop`, `pad` or `stretch`."""
        cut = "crop" if self.crop_to_aspect_ratio else "stretch"
        return "pad" if self.pad_to_aspect_ratio else cut

    @property
    def channels_first(self) -> bool:
        return self.data_format == "channels_first"

    @classmethod
    def from_config(cls: type[ImageConverterType], config: Mapping[str, Any]) -> ImageConverterType:
        """As of other layers; arguments of the oldest presets are understood."""
        config = dict(config)
        if "height" in config and "width" in config:
            config["image_size"] = (config.pop("height"), config.pop("width"))
        if "mean" in config and "variance" in config:
            mean, scale = config.pop("mean"), config.get("scale") or 1.0
            deviations = [math.sqrt(variance) for variance in config.pop("variance")]
            config["scale"] = [scale / deviation for deviation in deviations]
            config["offset"] = [-m / deviation for m, deviation in zip(mean, deviations)]
        return super().from_config(config)

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        return foreign.arguments_of(checkpoint, cls.processor)

    def to_transformers(self) -> dict[str, Any]:
        return foreign.processor_of(self, self.processor)

    def to_timm(self, channels: int = 3) -> dict[str, Any]:
        """What timm's `pretrained_cfg` says of the same pixels."""
        return foreign.timm_settings(self, channels)

    def __call__(self, inputs: Any) -> Any:
        """Images, or a dictionary of what belongs to them, converted."""
        if isinstance(inputs, Mapping):
            return self.convert_sample(inputs)
        images = as_images(inputs, self.data_format or "channels_last")
        if isinstance(images, list):
            return _stacked([self.convert(image) for image in images])
        return self.convert(images)

    def convert(self, images: torch.Tensor) -> torch.Tensor:
        """Images of one size, of any rank from 3."""
        return self.scaled(self.resized(images, self.interpolation))

    def resized(self, images: torch.Tensor, interpolation: str) -> torch.Tensor:
        """Images, or masks, of `image_size`."""
        if self.image_size is None:
            return images
        if images.is_floating_point():
            images = images.to(self.compute_dtype)
        first = images if self.channels_first else images.movedim(-1, -3)
        batch = first.reshape(-1, *first.shape[-3:])
        new = resize(batch, self.image_size, interpolation, self.antialias, self.fit)
        new = new.reshape(*first.shape[:-2], *self.image_size)
        return new if self.channels_first else new.movedim(-3, -1)

    def scaled(self, images: torch.Tensor) -> torch.Tensor:
        """Times `scale`, plus `offset`."""
        if self.scale is not None:
            images = images.to(self.compute_dtype)
            images = images * self._per_channel(self.scale, images)
        if self.offset is not None:
            images = images + self._per_channel(self.offset, images)
        return images

    def _per_channel(self, values: float | Sequence[float], images: torch.Tensor) -> torch.Tensor:
        """Numbers that multiply or add to the channels of images."""
        numbers = torch.tensor(values, dtype=torch.float64).to(images.dtype).to(images.device)
        channels = images.shape[-3 if self.channels_first else -1]
        if numbers.ndim and channels not in (1, len(numbers)):
            raise ValueError(
                f"Images of shape {tuple(images.shape)} have {channels} channels, scale and "
                f"offset are for {len(numbers)}."
            )
        return numbers[:, None, None] if numbers.ndim and self.channels_first else numbers

    def convert_sample(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Images with their boxes and masks."""
        if "images" not in sample:
            raise ValueError(f"A dictionary needs 'images'; this has {', '.join(sample)}.")
        images = as_images(sample["images"], self.data_format or "channels_last")
        if isinstance(images, list):
            return self._together(images, sample)
        result = {key: as_numbers(value, key) for key, value in sample.items()}
        result["images"] = self.convert(images)
        if self.image_size is None:
            return result
        if "segmentation_masks" in sample:
            masks = as_tensor(sample["segmentation_masks"], "segmentation_masks")
            flat = masks.ndim < images.ndim  # without channels
            channel = -3 if self.channels_first else -1
            masks = self.resized(masks.unsqueeze(channel) if flat else masks, "nearest")
            result["segmentation_masks"] = masks.squeeze(channel) if flat else masks
        if "bounding_boxes" in sample:
            height, width = images.shape[-2:] if self.channels_first else images.shape[-3:-1]
            result["bounding_boxes"] = self._boxes(sample["bounding_boxes"], (height, width))
        return result

    def _boxes(self, given: Any, before: tuple[int, int]) -> dict[str, Any]:
        """Boxes of images that had another size."""
        assert self.image_size is not None
        if not isinstance(given, Mapping) or not {"boxes", "labels"} <= given.keys():
            raise ValueError("bounding_boxes must be a dictionary of 'boxes' and 'labels'.")
        found = padded_boxes(given)
        boxes, labels = found["boxes"], found["labels"]
        if boxes.ndim < 2 or boxes.shape[-1] != 4:
            raise ValueError(f"boxes must be [n, 4] or [batch, n, 4], not {tuple(boxes.shape)}.")
        box_format = self.bounding_box_format.lower()
        boxes, visible = resize_boxes(boxes, box_format, before, self.image_size, self.fit)
        seen = visible if labels.ndim == visible.ndim else visible[..., None]
        return {**found, "boxes": boxes, "labels": labels.where(seen, -1)}

    def _together(self, images: list[torch.Tensor], sample: Mapping[str, Any]) -> dict[str, Any]:
        """Samples whose images differ in size, one after the other, then as a batch."""
        rows = [
            self.convert_sample({**_row(sample, i), "images": image})
            for i, image in enumerate(images)
        ]
        result: dict[str, Any] = {key: [row[key] for row in rows] for key in sample}
        for key in ("images", *BESIDE):
            if key in result:
                result[key] = _stacked(result[key])
        if "bounding_boxes" in result and self.image_size is not None:
            boxes = result["bounding_boxes"]
            result["bounding_boxes"] = padded_boxes(
                {k: [one[k] for one in boxes] for k in boxes[0]}
            )
        return result


def padded_boxes(
    given: Mapping[str, Any], fill: Mapping[str, int] = NO_BOX
) -> dict[str, torch.Tensor]:
    """Boxes and what they have beside them as tensors; where images have different numbers of
    them, filled up with these.
    """
    result = {}
    for key, value in given.items():
        dtype = torch.float32 if key == "boxes" else None
        if isinstance(value, (list, tuple)):
            rows = [as_tensor(row, key).to(dtype=dtype) for row in value]
            if len({row.shape for row in rows}) > 1:
                result[key] = torch.nn.utils.rnn.pad_sequence(rows, True, fill.get(key, 0))
                continue
            value = torch.stack(rows) if rows else np.zeros((0, 4) if key == "boxes" else 0)
        result[key] = as_tensor(value, key).to(dtype=dtype)
    return result


def _row(sample: Mapping[str, Any], i: int) -> dict[str, Any]:
    """What belongs to one image of a batch."""
    return {
        key: _row(value, i) if isinstance(value, Mapping) else value[i]
        for key, value in sample.items()
        if key != "images"
    }


def _stacked(items: list[Any]) -> Any:
    """Tensors as one, if they have one shape."""
    tensors = [as_numbers(item, "labels") for item in items]
    shapes = {one.shape if isinstance(one, torch.Tensor) else None for one in tensors}
    return torch.stack(tensors) if len(shapes) == 1 and None not in shapes else tensors


def as_numbers(value: Any, name: str = "The label") -> Any:
    """Arrays and lists of numbers as tensors, everything else as it is."""
    if isinstance(value, Mapping):
        return {key: as_numbers(one, key) for key, one in value.items()}
    if isinstance(value, (np.ndarray, np.generic, list, tuple, int, float)):
        try:
            return as_tensor(value, name)
        except (TypeError, ValueError):
            return value
    return value
