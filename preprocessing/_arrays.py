"""Numbers of any kind as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

# PyTorch computes little with these.
WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


def as_tensor(value: Any, name: str) -> torch.Tensor:
    """Numbers in a tensor, which stays where it is, an array or nested lists.

    Raises:
        TypeError: anything else.
        ValueError: lists of unequal lengths.
    """
    if not isinstance(value, torch.Tensor):
        if isinstance(value, (str, bytes)) or value is None:
            raise TypeError(f"{name} must hold numbers, not {type(value).__name__}.")
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} holds lists of unequal lengths.") from error
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must hold real numbers, not {array.dtype}.")
        # A copy, because PyTorch takes no reversed, read-only or big-endian arrays.
        value = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    if value.is_complex():
        raise TypeError(f"{name} must hold real numbers, not {value.dtype}.")
    return value.to(WIDER.get(value.dtype, value.dtype))
