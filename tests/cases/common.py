"""Inputs of the usual kinds."""

from __future__ import annotations

import numpy as np

CASES: list = []


def ids(rng: np.random.Generator, batch: int, length: int, vocabulary: int) -> np.ndarray:
    return rng.integers(0, vocabulary, (batch, length), dtype="int32")


def padding(rng: np.random.Generator, batch: int, length: int) -> np.ndarray:
    """Rows padded at the end, at the start, in between, and wholly; the first is full."""
    mask = np.ones((batch, length), "int32")
    for row in range(1, batch):
        kind = row % 4
        if kind == 1:
            mask[row, length - length // 3 :] = 0
        elif kind == 2:
            mask[row, : length // 3] = 0
        elif kind == 3:
            mask[row] = rng.integers(0, 2, length)
        else:
            mask[row] = 0
    return mask
