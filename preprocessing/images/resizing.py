"""Images of one size made into images of another one, as KerasHub does it on PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Names of Keras → names of PyTorch.
MODES = {"nearest": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic"}
FITS = ("stretch", "crop", "pad")


def resize(
    images: torch.Tensor,
    size: tuple[int, int],
    interpolation: str,
    antialias: bool = False,
    fit: str = "stretch",
) -> torch.Tensor:
    """Images `[batch, channels, height, width]` of another `size`, `(height, width)`.

    Integers stay integers: they are rounded, and pixels of a byte do not leave 0…255.

    Args:
        fit: how another aspect ratio is met: `stretch`, or `crop` or `pad` before resizing.
    """
    dtype = images.dtype
    if fit == "crop":
        images = _cropped(images, size)
    if dtype not in (torch.float32, torch.float64):
        images = images.float()
    if fit == "pad":
        images = _padded(images, size)
    smooth = interpolation != "nearest"
    if antialias and size[1] == 1:  # PyTorch is wrong there in the order of channels_last
        images = images.contiguous()
    images = F.interpolate(
        images,
        size,
        mode=MODES[interpolation],
        align_corners=False if smooth else None,
        antialias=antialias and smooth,
    )
    if dtype == torch.uint8 and interpolation == "bicubic":  # which overshoots
        images = images.clamp_(0, 255)
    return (images if dtype.is_floating_point else images.round_()).to(dtype)


def _cropped(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The largest part in the middle that has the aspect ratio of `size`."""
    height, width = images.shape[-2:]
    rows = max(min(height, int(float(width * size[0]) / size[1])), 1)
    columns = max(min(width, int(float(height * size[1]) / size[0])), 1)
    top, left = (height - rows) // 2, (width - columns) // 2
    return images[..., top : top + rows, left : left + columns]


def _padded(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Zeros around, as many on either side, until the aspect ratio is about that of `size`."""
    height, width = images.shape[-2:]
    rows = max(height, int(float(width * size[0]) / size[1]))
    columns = max(width, int(float(height * size[1]) / size[0]))
    top, left = (rows - height) // 2, (columns - width) // 2
    return F.pad(images, (left, left, top, top))
