"""What vision models share besides convolutions: checks of images, patches, positions, windows."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def image_channels(image_shape: Sequence[int | None], data_format: str) -> int:
    """The channels in `image_shape`, a height, a width and channels in the order of `data_format`.

    Raises:
        ValueError: it has other than three sizes, no channels, or those of the other order.
    """
    if len(image_shape) != 3:
        raise ValueError(f"image_shape={image_shape} must have a height, a width and channels.")
    channels, other = image_shape[-1], image_shape[0]
    if data_format == "channels_first":
        channels, other = other, channels
    if channels is None or (other is not None and other <= 4 < channels):
        raise ValueError(
            f"image_shape={tuple(image_shape)} does not go with data_format={data_format!r}, by "
            f"which it has {channels} channels."
        )
    return channels


def check_equally_long(**lists: Sequence[object]) -> None:
    """Refuse arguments of different lengths.

    Raises:
        ValueError: it names them all.
    """
    if len({len(values) for values in lists.values()}) > 1:
        given = ", ".join(f"{name}={values}" for name, values in lists.items())
        raise ValueError(f"These must be equally long: {given}.")


def check_images(
    images: torch.Tensor,
    data_format: str,
    channels: int,
    size: Sequence[int | None] = (None, None),
    multiple_of: int = 1,
) -> None:
    """Refuse images that a model cannot take.

    Args:
        size: height and width, `None` for any.
        multiple_of: what height and width must be divisible by.

    Raises:
        ValueError: other sizes or channels; the message has both.
    """
    given = tuple(images.shape[1:])
    if data_format == "channels_first":
        given = (*given[1:], given[0])
    wanted = (*size, channels)
    if any(want is not None and want != have for want, have in zip(wanted, given)):
        sizes = " × ".join("any" if want is None else str(want) for want in wanted)
        raise ValueError(
            f"Images must be of height, width and channels {sizes}, but by data_format="
            f"{data_format!r} those of shape {tuple(images.shape)} are "
            f"{' × '.join(map(str, given))}."
        )
    if given[0] % multiple_of or given[1] % multiple_of:
        raise ValueError(
            f"Images must have sides divisible by {multiple_of}, not {given[0]} × {given[1]}."
        )
