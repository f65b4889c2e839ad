"""`torchvision.ops.roi_align` by its definition: KerasHub's SAM 3 calls it, and torch has no other.

https://docs.pytorch.org/vision/stable/generated/torchvision.ops.roi_align.html
"""

from __future__ import annotations

import math
from typing import Any

import torch


def roi_align(
    maps: torch.Tensor, rois: torch.Tensor, output_size: tuple[int, int], **others: Any
) -> torch.Tensor:
    """Maps `[images, height, width, dim]` and `[boxes, 5]`, the image and the corners of each."""
    bins = []
    for image, left, top, right, bottom in rois.tolist():
        width, height = max(right - left, 1.0), max(bottom - top, 1.0)
        down, along = height / output_size[0], width / output_size[1]
        rows, columns = math.ceil(down), math.ceil(along)
        for i in range(output_size[0]):
            for j in range(output_size[1]):
                samples = [
                    sample(
                        maps[int(image)],
                        top + i * down + (y + 0.5) * down / rows,
                        left + j * along + (x + 0.5) * along / columns,
                    )
                    for y in range(rows)
                    for x in range(columns)
                ]
                bins.append(sum(samples) / len(samples))
    return torch.stack(bins).view(len(rois), *output_size, -1)


def sample(x: torch.Tensor, row: float, column: float) -> torch.Tensor:
    """Of a map `[height, width, dim]` between its pixels; nothing more than one beside it."""
    height, width = x.shape[:2]
    if not (-1 <= row <= height and -1 <= column <= width):
        return torch.zeros_like(x[0, 0])
    row, column = min(max(row, 0.0), height - 1.0), min(max(column, 0.0), width - 1.0)
    top, left = int(row), int(column)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, along = row - top, column - left
    upper = (1 - along) * x[top, left] + along * x[top, right]
    lower = (1 - along) * x[below, left] + along * x[below, right]
    return (1 - down) * upper + down * lower
