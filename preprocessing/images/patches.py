"""Images of any size cut into patches, as Gemma 4 and Qwen3.5 see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .._checkpoint import Checkpoint, differs, setting
from .converter import MAX_SIDE, ImageConverter
from .foreign import CLIP, NUMBERS, interpolation_of, means_of, normalized, settings_of
from .inputs import as_images
from .resizing import resize

GEMMA4 = {"resample": 3, "do_normalize": False, "patch_size": 16, "pooling_kernel_size": 3}
QWEN = {"resample": 3, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, **CLIP} | {
    "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
}
# How many tokens transformers lets an image have.
SOFT_TOKENS = (70, 140, 280, 560, 1120)


class Gemma4ImageConverter(ImageConverter):
    """Images resized to as many patches as there may be, with their sides' ratio; in float32.

    An image, or a batch → `pixel_values` `[batch, patches, 3 · patch_size²]`, padded with 0, and
    `pixel_position_ids` `[batch, patches, 2]` of x and y, padded with -1, where there are
    `max_soft_tokens · pooling_kernel_size²` patches. Of a dictionary the other entries are kept.
    `image_size`, `interpolation` and the like have no effect.

    Args:
        patch_size: side of a patch.
        max_soft_tokens: of an image.
        pooling_kernel_size: side of the square of patches that become one token.
        kwargs: other arguments of `ImageConverter`.
    """

    fixed_dtype = "float32"
    # KerasHub does not save them.
    lost = ("data_format", "max_soft_tokens", "pooling_kernel_size")

    def __init__(
        self,
        patch_size: int = 16,
        max_soft_tokens: int = 280,
        pooling_kernel_size: int = 3,
        **kwargs: Any,
    ) -> None:
        # What KerasHub writes for the size, whatever it was given.
        super().__init__(**{**kwargs, "image_size": (1, 1)})
        check_sizes(
            max_soft_tokens * (pooling_kernel_size * patch_size) ** 2,
            patch_size=patch_size,
            max_soft_tokens=max_soft_tokens,
            pooling_kernel_size=pooling_kernel_size,
        )
        self.patch_size = patch_size
        self.max_soft_tokens = max_soft_tokens
        self.pooling_kernel_size = pooling_kernel_size

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        return gemma4_arguments(checkpoint, "image_converter", "Gemma4ImageProcessor", 280)

    def to_transformers(self) -> dict[str, Any]:
        return {"image_processor_type": "Gemma4ImageProcessor", **gemma4_settings(self)}

    def __call__(self, inputs: Any) -> Any:
        if isinstance(inputs, Mapping):
            return {**inputs, **self(inputs["images"])}
        images = as_images(inputs, self.data_format or "channels_last")
        if isinstance(images, list):
            rows = [self.patches(image) for image in images]
            return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        return self.patches(images)

    def patches(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Patches and their places of an image, or of a batch of images of one size."""
        images = images if self.channels_first else images.movedim(-1, -3)
        batch = images if images.ndim == 4 else images[None]
        size = self._size(*batch.shape[-2:])
        resized = resize(batch.float(), size, "bicubic", antialias=True).clamp_(0, 255)
        pixels = self.scaled(resized if self.channels_first else resized.movedim(-3, -1))
        pixels = pixels.movedim(-3, -1) if self.channels_first else pixels
        side = self.patch_size
        rows, columns = size[0] // side, size[1] // side
        tiles = pixels.unflatten(1, (rows, side)).unflatten(3, (columns, side)).transpose(2, 3)
        values = tiles.flatten(3).flatten(1, 2)
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(-1)
        places = places.to(values.device, torch.int32).expand(len(values), -1, -1)
        most = self.max_soft_tokens * self.pooling_kernel_size**2
        missing = max(most - rows * columns, 0)
        found = {
            "pixel_values": torch.nn.functional.pad(values, (0, 0, 0, missing)),
            "pixel_position_ids": torch.nn.functional.pad(places, (0, 0, 0, missing), value=-1),
        }
        return found if images.ndim == 4 else {key: value[0] for key, value in found.items()}

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """The sides, multiples of a token's, of the largest image that has no more patches."""
        side = self.pooling_kernel_size * self.patch_size
        pixels = self.max_soft_tokens * side**2
        factor = np.sqrt(np.float32(pixels) / np.float32(height * width))
        tokens = [int(np.floor(factor * np.float32(length) / side)) for length in (height, width)]
        return max(tokens[0], 1) * side, max(tokens[1], 1) * side


class EmbeddingGemma2ImageConverter(Gemma4ImageConverter):
    """See `Gemma4ImageConverter`."""


class DiffusionGemmaImageConverter(Gemma4ImageConverter):
    """See `Gemma4ImageConverter`."""


class Qwen3_5ImageConverter(ImageConverter):
    """Images resized to a number of pixels within bounds, and cut into patches.

    An image → `patches` `[n, temporal_patch_size, patch_size, patch_size, channels]`, row by row,
    and `grid_thw` `[3]`: 1, rows and columns of patches. Of several images, a batch or a list, the
    patches follow one another, and `grid_thw` is `[images, 3]`. Sides are those of transformers
    where an image is within the bounds; where it is not, KerasHub rounds otherwise.

    Args:
        patch_size: side of a patch.
        temporal_patch_size: frames of a patch; an image is repeated.
        spatial_merge_size: side of the square of patches that become one token.
        min_pixels: of a resized image.
        max_pixels: of a resized image.
        kwargs: other arguments of `ImageConverter`.
    """

    def __init__(
        self,
        patch_size: int = 16,
        temporal_patch_size: int = 2,
        spatial_merge_size: int = 2,
        min_pixels: int = 65536,
        max_pixels: int = 16777216,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(
            max(min_pixels, max_pixels),
            patch_size=patch_size,
            temporal_patch_size=temporal_patch_size,
            spatial_merge_size=spatial_merge_size,
        )
        self.patch_size = patch_size
        self.temporal_patch_size = temporal_patch_size
        self.spatial_merge_size = spatial_merge_size
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        known = {"Qwen2VLImageProcessor": QWEN}
        return qwen_arguments(checkpoint, "image_converter", known)

    def to_transformers(self) -> dict[str, Any]:
        return {"image_processor_type": "Qwen2VLImageProcessor", **qwen_settings(self)}

    def __call__(self, inputs: Any) -> Any:
        images = as_images(inputs, self.data_format or "channels_last")
        if not isinstance(images, list) and images.ndim == 3:
            return self.patches(images)
        found = [self.patches(image) for image in images]
        return {
            "patches": torch.cat([one["patches"] for one in found]),
            "grid_thw": torch.stack([one["grid_thw"] for one in found]),
        }

    def patches(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of one image."""
        first = image if self.channels_first else image.movedim(-1, -3)
        size = self._size(*first.shape[-2:])
        resized = resize(first[None].float(), size, self.interpolation, self.antialias)
        pixels = resized[0].clamp_(0, 255)
        frame = self.scaled(pixels if self.channels_first else pixels.movedim(-3, -1))
        frame = frame.movedim(-3, -1) if self.channels_first else frame
        frames = frame.expand(self.temporal_patch_size, *frame.shape)
        return cut_into_patches(frames, self.patch_size, self.temporal_patch_size)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Sides, multiples of a token's, with a number of pixels within bounds, or nearly so."""
        side = float(self.patch_size * self.spatial_merge_size)
        pixels = np.float32(height * width)
        scale = np.float32(1)
        if pixels < self.min_pixels:
            scale = np.sqrt(np.float32(self.min_pixels) / pixels)
        elif pixels > self.max_pixels:
            scale = np.sqrt(np.float32(self.max_pixels) / pixels)
        tokens = [
            max(int(np.round(np.float32(length) * scale / np.float32(side))), 1)
            for length in (height, width)
        ]
        return int(tokens[0] * side), int(tokens[1] * side)


class Qwen3_5MoeImageConverter(Qwen3_5ImageConverter):
    """Of `Qwen3_5MoeBackbone`."""


def cut_into_patches(frames: torch.Tensor, side: int, depth: int) -> dict[str, torch.Tensor]:
    """Frames `[frames, height, width, channels]` as `patches` `[n, depth, side, side, channels]`
    and `grid_thw`, how many there are along each axis.
    """
    grid = [frames.shape[0] // depth, frames.shape[1] // side, frames.shape[2] // side]
    times, rows, columns = grid
    tiles = frames.reshape(times, depth, rows, side, columns, side, frames.shape[-1])
    tiles = tiles.permute(0, 2, 4, 1, 3, 5, 6).flatten(0, 2)
    thw = torch.tensor(grid, dtype=torch.int32, device=frames.device)
    return {"patches": tiles, "grid_thw": thw}


def check_sizes(pixels: int, **sizes: int) -> None:
    """Refuse what no converter has, before memory is taken.

    Raises:
        ValueError: it names the argument.
    """
    for name, size in sizes.items():
        if not 1 <= size <= MAX_SIDE:
            raise ValueError(f"{name} must be from 1 to {MAX_SIDE:,}, not {size:,}.")
    if pixels > MAX_SIDE**2:
        raise ValueError(f"Images of {pixels:,} pixels; {MAX_SIDE**2:,} are the most.")


# transformers


def gemma4_arguments(
    checkpoint: Checkpoint, kind: str, name: str, max_soft_tokens: int
) -> dict[str, Any]:
    """Arguments of a converter of images or of videos.

    Args:
        kind: of the converter.
        name: of the class in transformers.
        max_soft_tokens: where it does not say how many.
    """
    known = {name: {**GEMMA4, "max_soft_tokens": max_soft_tokens, "num_frames": 32}}
    _, settings, notes = settings_of(checkpoint, kind, name, known)
    if interpolation_of(settings, notes) != "bicubic" or not settings["do_resize"]:
        said = {key: settings[key] for key in ("do_resize", "resample")}
        notes.append(f"{said}: images are resized, bicubic, here")
    differs(f"The {name} of {checkpoint.source.handle}", notes)
    sizes = ("patch_size", "max_soft_tokens", "pooling_kernel_size")
    return {**{key: setting(settings, key, int) for key in sizes}, **normalized(settings)}


def gemma4_settings(converter: Any) -> dict[str, Any]:
    """Those of transformers."""
    if converter.max_soft_tokens not in SOFT_TOKENS:
        raise NotImplementedError(
            f"transformers knows no max_soft_tokens={converter.max_soft_tokens}, but {SOFT_TOKENS}."
        )
    sizes = ("patch_size", "max_soft_tokens", "pooling_kernel_size")
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": NUMBERS["bicubic"],
        **{name: getattr(converter, name) for name in sizes},
        **{"image_mean": [0.0] * 3, "image_std": [1.0] * 3},
        **means_of(converter.scale, converter.offset),
    }


def qwen_arguments(
    checkpoint: Checkpoint, kind: str, known: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Arguments of a converter of images or of videos.

    Args:
        kind: of the converter.
        known: the class in transformers, and its settings.
    """
    name, settings, notes = settings_of(checkpoint, kind, next(iter(known)), known)
    size = settings["size"]
    if not isinstance(size, Mapping):
        raise ValueError(f"size of {checkpoint.source.handle}'s {name} cannot be {size!r}.")
    bounds = {"min_pixels": size.get("shortest_edge"), "max_pixels": size.get("longest_edge")}
    bounds |= {key: settings[key] for key in bounds if settings.get(key) is not None}
    if not settings["do_resize"]:
        notes.append("do_resize=False: images are resized here")
    found = {
        "patch_size": setting(settings, "patch_size", int),
        "temporal_patch_size": setting(settings, "temporal_patch_size", int),
        "spatial_merge_size": setting(settings, "merge_size", int),
        **bounds,
        **normalized(settings),
        "interpolation": interpolation_of(settings, notes),
        "antialias": True,
    }
    differs(f"The {name} of {checkpoint.source.handle}", notes)
    return found


def qwen_settings(converter: Any) -> dict[str, Any]:
    """Those of transformers."""
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": NUMBERS[converter.interpolation],
        "size": {"shortest_edge": converter.min_pixels, "longest_edge": converter.max_pixels},
        "patch_size": converter.patch_size,
        "temporal_patch_size": converter.temporal_patch_size,
        "merge_size": converter.spatial_merge_size,
        **means_of(converter.scale, converter.offset),
    }
