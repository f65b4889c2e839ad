"""Where D-FINE's queries come from: the most likely of all pixels, or what is learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..layers.core import Embedding
from ..layers.initializers import glorot_uniform
from ..layers.layer import Layer


class DFineInitialQueryAndReferenceGenerator(Layer):
    """Learned queries."""

    def __init__(self, num_queries: int, hidden_dim: int) -> None:
        super().__init__()
        self.weight_embedding = Embedding(num_queries, hidden_dim, glorot_uniform)

    def forward(self, batch: int) -> torch.Tensor:
        weight = self.weight_embedding.weight
        queries = self.weight_embedding(torch.arange(len(weight), device=weight.device))
        return queries.expand(batch, -1, -1)


def rows_of(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """`[batch, rows, dim]` and `[batch, chosen]` → `[batch, chosen, dim]`."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[-1]))


def anchors_of(maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a box around each pixel, `[1, pixels, 4]`, in float32; and whether it lies within
    the image, `[1, pixels, 1]`.
    """
    boxes = []
    for level, x in enumerate(maps):
        height, width = x.shape[2:]
        rows = (torch.arange(height, device=x.device) + 0.5) / height
        columns = (torch.arange(width, device=x.device) + 0.5) / width
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        size = torch.full_like(x, 0.05 * 2**level)
        boxes.append(torch.stack((x, y, size, size), dim=-1).flatten(0, 1))
    anchors = torch.cat(boxes)[None]
    valid = ((anchors > 0.01) & (anchors < 0.99)).all(-1, keepdim=True)
    largest = min(torch.finfo(one.dtype).max for one in (*maps, anchors))
    return torch.where(valid, (anchors / (1 - anchors)).log(), largest), valid
