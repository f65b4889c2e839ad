"""Contrastive denoising (arXiv:2203.03605): queries that are to find known objects again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ..layers.boxes import inverse_sigmoid

MOST_QUERIES = 10**7


def plain_labels(
    labels: Sequence[Mapping[str, Any]] | None, num_labels: int
) -> list[dict[str, Any]] | None:
    """Labels whose arrays are lists.

    Raises:
        ValueError: no boxes, no classes or other numbers of them, boxes outside the image, or
            unknown classes; it says of which image.
    """
    if labels is None:
        return None
    found = []
    for i, one in enumerate(labels):
        plain = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in one.items()}
        where = f"labels[{i}]"
        if not {"boxes", "labels"} <= plain.keys():
            raise ValueError(f"{where} must have 'boxes' and 'labels', not {', '.join(plain)}.")
        boxes, classes = plain["boxes"], plain["labels"]
        if len(boxes) != len(classes):
            raise ValueError(f"{where} has {len(boxes)} boxes, but {len(classes)} labels.")
        for box in boxes:
            if len(box) != 4 or not all(0 <= side <= 1 for side in box):
                raise ValueError(
                    f"{where} has the box {box}; it must be the centre, x and y, the width and the "
                    "height, all from 0 to 1."
                )
        for label in classes:
            if label not in range(num_labels):
                raise ValueError(f"{where} has the class {label}, num_labels={num_labels}.")
        found.append(plain)
    return found


class Denoising:
    """Of each image groups of queries, each of all objects, a little changed, and of all of them
    again, changed so far that they are to be taken for nothing.

    As in KerasHub the changes are drawn once. They are no part of the model's state.

    Args:
        labels: as of `DFineBackbone`.
        num_queries: of those beside these.
        seed: of the changes; `None` for torch's own.

    Attributes:
        classes, boxes: of the queries, `[images, queries]` and, as logits, `[images, queries, 4]`.
        positive: places of those that are to be found, `[images, objects]`, -1 for none.
        group: of all queries, each of the others in one that is no group.
        num_groups: of the queries.
    """

    def __init__(
        self,
        labels: Sequence[Mapping[str, Any]],
        num_queries: int,
        num_labels: int,
        num_denoising: int,
        label_noise_ratio: float,
        box_noise_scale: float,
        seed: int | None,
    ) -> None:
        counts = [len(one["labels"]) for one in labels]
        most = max(counts, default=0)
        if most == 0:
            raise ValueError(f"labels={labels} must have a box.")
        self.num_groups = max(1, num_denoising // most)
        many = 2 * most * self.num_groups
        if many * len(counts) > MOST_QUERIES:
            raise ValueError(
                f"num_denoising={num_denoising} makes {many:,} queries for each of {len(counts)} "
                "labels, which is too many."
            )
        rows = [[*one["labels"], *[num_labels] * (most - len(one["labels"]))] for one in labels]
        corners = [[*one["boxes"], *[[0.0] * 4] * (most - len(one["boxes"]))] for one in labels]
        with torch.device("cpu"):
            generator = torch.default_generator
            if seed is not None:
                generator = torch.Generator().manual_seed(seed)
            place = torch.arange(many)
            known = place % most < torch.tensor(counts)[:, None]
            classes = torch.tensor(rows).repeat(1, 2 * self.num_groups)
            if label_noise_ratio > 0:
                changed = torch.rand(classes.shape, generator=generator) < label_noise_ratio / 2
                others = torch.randint(0, num_labels, classes.shape, generator=generator)
                classes = torch.where(changed & known, others, classes)
            boxes = torch.tensor(corners).float().repeat(1, 2 * self.num_groups, 1)
            if box_noise_scale > 0:
                farther = (place // most % 2)[:, None]
                by = torch.rand(boxes.shape, generator=generator) + farther
                by *= torch.randint(0, 2, boxes.shape, generator=generator) * 2 - 1
                boxes = moved(boxes, by * box_noise_scale / 2)
            starts = torch.arange(self.num_groups)[:, None] * 2 * most
            positive = [(starts + torch.arange(count)).flatten() for count in counts]
            self.positive = pad_sequence(positive, batch_first=True, padding_value=-1).int()
            self.group = F.pad(place // (2 * most), (0, num_queries), value=self.num_groups)
        self.classes, self.boxes = classes, inverse_sigmoid(boxes)

    def bias(self, device: torch.device) -> torch.Tensor:
        """What is added to scores of all queries for each other.

        These are ones where the paper hides, as in KerasHub: of another group, and those of all
        groups from the others.
        """
        group = self.group.to(device)
        return (group[:, None] != group) & (group < self.num_groups)

    def known(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a loss needs, of images by their numbers."""
        many = self.classes.shape[1]
        split = torch.tensor([many, len(self.group) - many], dtype=torch.int32)
        group = torch.tensor(self.num_groups, dtype=torch.int32)
        return {
            "dn_positive_idx": self.positive.to(images.device)[images],
            "dn_num_group": group.to(images.device).expand(images.shape[0]),
            "dn_num_split": split.to(images.device).expand(images.shape[0], -1),
        }


def moved(boxes: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Boxes `[..., 4]` of which each edge is moved by a part of the width or height."""
    centres, sizes = boxes.chunk(2, dim=-1)
    first, second = by.chunk(2, dim=-1)
    first = (centres + (first - 0.5) * sizes).clamp(0, 1)
    second = (centres + (second + 0.5) * sizes).clamp(0, 1)
    return torch.cat(((first + second) / 2, second - first), dim=-1)
