"""Boxes: their forms, and what of a map lies within them."""

from __future__ import annotations

import torch

from .dtypes import in_float32


def widened(x: torch.Tensor) -> torch.Tensor:
    """In float32 at least, as places need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def inverse_sigmoid(x: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """Logits of numbers from 0 to 1, both they and the rest up to 1 no less than `epsilon`."""
    x = x.clamp(0, 1)
    return (x.clamp(min=epsilon) / (1 - x).clamp(min=epsilon)).log()


def corners_of(boxes: torch.Tensor) -> torch.Tensor:
    """Centre, width and height → left, top, right and bottom, `[..., 4]`."""
    centres, sizes = boxes.chunk(2, dim=-1)
    return torch.cat((centres - 0.5 * sizes, centres + 0.5 * sizes), dim=-1)


@in_float32
def roi_align(
    maps: torch.Tensor, boxes: torch.Tensor, indices: torch.Tensor, size: int
) -> torch.Tensor:
    """What is within boxes, each cut into `size` × `size` bins (arXiv:1703.06870).

    A bin is the mean of about one sample for each pixel of it, interpolated between pixels. It is
    torchvision's `roi_align` with its defaults, for boxes up to `size` times as large as a map.

    Args:
        maps: `[images, height, width, dim]`.
        boxes: `[boxes, 4]`, left, top, right and bottom in pixels, whose centres are whole numbers.
        indices: `[boxes]`, which map each box is of.

    Returns:
        `[boxes, size, size, dim]`, in float32 at least.
    """
    height, width = maps.shape[1:3]
    left, top, right, bottom = boxes.unbind(-1)
    rows = _samples(top, bottom, size, height).to(maps.dtype)
    columns = _samples(left, right, size, width).to(maps.dtype)
    # Interpolation, and the mean, are along one axis after the other.
    seen = (rows @ maps[indices].flatten(2)).unflatten(-1, (width, -1))
    return columns[:, None] @ seen


def _samples(start: torch.Tensor, end: torch.Tensor, size: int, length: int) -> torch.Tensor:
    """How much each pixel along an axis has a part in each bin, `[boxes, size, length]`."""
    extent = (end - start).clamp(min=1)
    # As many samples as boxes may need, of which those of smaller ones count for nothing.
    many = torch.arange(length, device=start.device)
    count = (extent / size).ceil().clamp(max=length)[:, None, None]
    start, step = start[:, None, None], (extent / size)[:, None, None]
    bins = torch.arange(size, device=start.device)[:, None]
    places = start + bins * step + (many + 0.5) * step / count
    counted = (many < count) & (places >= -1) & (places <= length)
    near = 1 - (places.clamp(0, length - 1)[..., None] - many).abs()
    return (near.clamp(min=0) * counted[..., None]).sum(-2) / count
