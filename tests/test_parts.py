"""Parts of tensors, read from files that arrange them in another way."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from keras_hub_torch.backbones.layers.core import EinsumDense
from keras_hub_torch.presets.checkpoints.table import (
    EXPERTS,
    FUSE,
    HALVES,
    TRANSPOSE,
    interleave,
    skip,
)
from keras_hub_torch.presets.parts import Arranged, Part
from keras_hub_torch.presets.reading import read_view_into

Function = Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]


def kernel(
    equation: str, inputs: int | tuple[int, int], outputs: int | tuple[int, int]
) -> Function:
    layer = EinsumDense(equation, inputs, outputs)
    return lambda tensors: [layer.from_kernel(tensors[0])]


ARRANGED: dict[str, tuple[list[tuple[int, ...]], Function]] = {
    "as it is": ([(5, 6)], lambda tensors: tensors),
    "one number": ([()], lambda tensors: tensors),
    "[in, heads, dim]": ([(7, 6, 5)], kernel("abc,cde->abde", 7, (6, 5))),
    "[heads, in, dim]": ([(6, 7, 5)], kernel("btd,ndh->btnh", 7, (6, 5))),
    "[heads, dim, out]": ([(6, 5, 7)], kernel("btnh,nhd->btd", (6, 5), 7)),
    "transposed": ([(5, 6)], lambda tensors: TRANSPOSE.load(tensors, [])),
    "fused": ([(12, 6)], lambda tensors: FUSE.load(tensors, [(4, 6), (2, 6), (6, 6)])),  # type: ignore[list-item]
    "halves": ([(5, 4, 6)] * 2, lambda tensors: HALVES.load(tensors, [])),
    "halves of experts": (
        [(4, 6)] * 6,
        lambda tensors: HALVES.load(EXPERTS.load(tensors, [(3, 6, 4)] * 2), []),  # type: ignore[list-item]
    ),
    "interleaved": (
        [(24, 6)],
        lambda tensors: interleave("n")({"n": 4}).load(tensors, [(8, 6)] * 3),  # type: ignore[list-item]
    ),
    "without rows": ([(9, 6)], lambda tensors: skip(2).load(tensors, [])),
}


@pytest.mark.parametrize("name", ARRANGED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_boxes(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, function = ARRANGED[name]
    rng = random.Random(0)
    stored = [torch.randn(shape) for shape in shapes]
    path = tmp_path / "data"
    path.write_bytes(b"".join(tensor.numpy().tobytes() for tensor in stored))
    counts: list[int] = []
    read = os.preadv

    def counted(*args: object) -> int:
        counts.append(read(*args))  # type: ignore[arg-type]
        return counts[-1]

    monkeypatch.setattr(os, "preadv", counted)
    arranged = Arranged(shapes, function)
    size = 4 * math.prod(shapes[0])
    with path.open("rb") as file:
        for index, whole in enumerate(function(stored)):
            for _ in range(20):
                box = [sorted((rng.randint(0, n), rng.randint(0, n))) for n in whole.shape]
                expected = whole[tuple(slice(*ends) for ends in box)].to(dtype)
                target = torch.full(expected.shape[::-1], math.nan, dtype=dtype)
                target = target.permute([*reversed(range(target.ndim))])
                counts.clear()
                pieces = arranged.pieces(index, Part([(a, b) for a, b in box], target))
                assert pieces is not None
                for piece in pieces:
                    begin = piece.number * size
                    read_view_into(piece.target, file.fileno(), begin, torch.float32, piece.view)
                assert torch.equal(target, expected)
                assert sum(counts) == 4 * expected.numel()


def test_what_is_computed() -> None:
    """It cannot be told, and is made of whole tensors."""
    arranged = Arranged([(3, 4)], lambda tensors: [tensors[0] * 2])
    assert arranged.pieces(0, Part([(0, 1), (0, 4)], torch.empty(1, 4))) is None
    looked_at = Arranged([(3, 4)], lambda tensors: [tensors[0][tensors[0].long()[0]]])
    assert looked_at.pieces(0, Part([(0, 1), (0, 4)], torch.empty(1, 4))) is None
