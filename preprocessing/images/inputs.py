"""Pictures in whatever form people have them."""

from __future__ import annotations

import os
from functools import reduce
from typing import Any

import torch

from .._arrays import as_tensor
from .._libraries import library

MAX_CHANNELS = 4


def as_images(value: Any, data_format: str) -> torch.Tensor | list[torch.Tensor]:
    """An image of rank 3, a batch or videos of more ranks; images of several sizes in a list.

    Raises:
        TypeError: no image.
        ValueError: a tensor that is none by its shape, or no images at all.
        ImportError: a picture, without Pillow.
        OSError: a file that cannot be read.
    """
    if not isinstance(value, (list, tuple)):
        return checked(one_image(value), data_format)
    if not value:
        raise ValueError("The list of images is empty.")
    first = one_image(value[0])
    if first.ndim < 3:  # an image itself, in nested lists
        return checked(as_tensor(value, "The image"), data_format)
    images = [checked(one, data_format) for one in (first, *map(one_image, value[1:]))]
    if len({image.shape for image in images}) > 1:
        return images
    dtype = reduce(torch.promote_types, (image.dtype for image in images))
    return torch.stack([image.to(dtype) for image in images])


def one_image(value: Any) -> torch.Tensor:
    """A picture or an array as a tensor."""
    if isinstance(value, bytes):
        raise TypeError("An image must be a tensor, an array, a picture or its path, not bytes.")
    return _decoded(value) if is_picture(value) else as_tensor(value, "The image")


def is_picture(value: Any) -> bool:
    """Whether something is a file of a picture, or a picture of Pillow."""
    return isinstance(value, (str, os.PathLike)) or hasattr(value, "getexif")


def _decoded(picture: Any) -> torch.Tensor:
    """RGB, `[height, width, 3]`, the right way up."""
    Image, ImageOps = library("PIL.Image", "images"), library("PIL.ImageOps", "images")
    if isinstance(picture, Image.Image):
        return as_tensor(ImageOps.exif_transpose(picture).convert("RGB"), "The image")
    path = os.path.expanduser(picture)
    try:
        with Image.open(path) as opened:
            return _decoded(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise OSError(f"{path} cannot be read as a picture: {error}") from error


def checked(images: torch.Tensor, data_format: str) -> torch.Tensor:
    """The images, if they are some by their shape.

    Raises:
        ValueError: they are not.
    """
    shape = tuple(images.shape)
    if not 3 <= images.ndim <= 5:
        raise ValueError(
            f"An image has 3 axes, a batch of images 4, of videos 5; this has shape {shape}."
        )
    if 0 in shape:
        raise ValueError(f"There is no pixel in images of shape {shape}.")
    axis = -3 if data_format == "channels_first" else -1
    channels = shape[axis]
    if channels > MAX_CHANNELS:
        raise ValueError(
            f"Images of shape {shape} would have {channels} channels; {MAX_CHANNELS} are the most. "
            f"With data_format={data_format!r} channels are axis {axis}."
        )
    return images
