"""Bounding boxes that follow their images."""

from __future__ import annotations

import torch

FORMATS = ("xyxy", "yxyx", "xywh", "center_xywh", "center_yxhw")
RELATIVE = tuple(f"rel_{name}" for name in FORMATS[:-1])


def resize_boxes(
    boxes: torch.Tensor,
    box_format: str,
    before: tuple[int, int],
    after: tuple[int, int],
    fit: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes `[..., 4]` of images whose size `(height, width)` changes, within the new image.

    Boxes that are all 0 or all -1 stand for none, and become 0.

    Args:
        fit: as of `resize`.

    Returns:
        The boxes, and which of them have an area still, `[...]`.
    """
    none = (boxes == -1).all(-1) | (boxes == 0).all(-1)
    corners = _to_corners(boxes, box_format, before)
    corners = corners * _factors(before, after, fit, corners) - _cut(before, after, fit, corners)
    height, width = after
    limits = corners.new_tensor([width, height, width, height])
    corners = corners.clamp_min(0).minimum(limits)
    left, top, right, bottom = corners.unbind(-1)
    visible = (right - left) * (bottom - top) > 0
    corners = corners.masked_fill(none[..., None], 0)
    return _from_corners(corners, box_format, after), visible


def _factors(
    before: tuple[int, int], after: tuple[int, int], fit: str, like: torch.Tensor
) -> torch.Tensor:
    """By which x, y, x, y grow."""
    y, x = _ratios(before, after, fit, like.dtype)
    return torch.stack([x, y, x, y]).to(like.device)


def _ratios(
    before: tuple[int, int], after: tuple[int, int], fit: str, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of heights and of widths, in the very steps in which Keras rounds."""
    height, width = (torch.tensor(float(size), dtype=dtype) for size in before)
    if fit == "crop":
        new_height, new_width = _uncropped(height, width, after)
        return new_height / height, new_width / width
    y, x = after[0] / height, after[1] / width
    return (torch.minimum(y, x),) * 2 if fit == "pad" else (y, x)


def _uncropped(
    height: torch.Tensor, width: torch.Tensor, after: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The size of the whole image, had it been resized before it was cropped."""
    aspect = width / height
    whole = torch.ones_like(aspect)
    if aspect > after[1] / after[0]:
        return whole * after[0], after[0] * aspect
    return after[1] / aspect, whole * after[1]


def _cut(
    before: tuple[int, int], after: tuple[int, int], fit: str, like: torch.Tensor
) -> torch.Tensor:
    """What was cut off on the left and above, or less than nothing for what was added."""
    height, width = (torch.tensor(float(size), dtype=like.dtype) for size in before)
    if fit == "stretch":
        return torch.zeros(4, dtype=like.dtype, device=like.device)
    if fit == "crop":
        new_height, new_width = _uncropped(height, width, after)
        y, x = (new_height - after[0]) // 2, (new_width - after[1]) // 2
    else:
        ratio = _ratios(before, after, fit, like.dtype)[0]
        y, x = -((after[0] - height * ratio) // 2), -((after[1] - width * ratio) // 2)
    return torch.stack([x, y, x, y]).to(like.device)


def _to_corners(boxes: torch.Tensor, box_format: str, size: tuple[int, int]) -> torch.Tensor:
    """Boxes of a format as `xyxy` in pixels."""
    a, b, c, d = boxes.unbind(-1)
    name = box_format.removeprefix("rel_")
    if name == "yxyx":
        corners = [b, a, d, c]
    elif name == "xywh":
        corners = [a, b, a + c, b + d]
    elif name == "center_xywh":
        corners = [a - c / 2, b - d / 2, a + c / 2, b + d / 2]
    elif name == "center_yxhw":
        corners = [b - d / 2, a - c / 2, b + d / 2, a + c / 2]
    else:
        corners = [a, b, c, d]
    boxes = torch.stack(corners, -1)
    height, width = size
    relative = box_format.startswith("rel_")
    return boxes * boxes.new_tensor([width, height, width, height]) if relative else boxes


def _from_corners(boxes: torch.Tensor, box_format: str, size: tuple[int, int]) -> torch.Tensor:
    """`xyxy` in pixels as another format."""
    left, top, right, bottom = boxes.unbind(-1)
    width, height = right - left, bottom - top
    name = box_format.removeprefix("rel_")
    rows, columns = size
    scale = [columns, rows, columns, rows]
    if name == "yxyx":
        parts, scale = [top, left, bottom, right], [rows, columns, rows, columns]
    elif name == "xywh":
        parts = [left, top, width, height]
    elif name == "center_xywh":
        parts = [left + width / 2, top + height / 2, width, height]
    elif name == "center_yxhw":
        parts = [top + height / 2, left + width / 2, height, width]
    else:
        parts = [left, top, right, bottom]
    boxes = torch.stack(parts, -1)
    return boxes / boxes.new_tensor(scale) if box_format.startswith("rel_") else boxes
