"""Reading files straight onto a device, through a little memory that it can copy from by itself."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from .reading import read_into

# Two for each thread that reads: one is filled while the device copies the other.
CHUNK_BYTES = 16 * 1024**2
_staged = threading.local()


def read_to_device(
    descriptor: int, offset: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """A new tensor with the numbers that a file holds in row-major order.

    Raises:
        OSError: the file cannot be read, or ends too early.
    """
    target = torch.empty(tuple(shape), dtype=dtype, device=device)
    chunks = _chunks(device)
    for i, piece in enumerate(target.view(-1).view(torch.uint8).split(CHUNK_BYTES)):
        memory, copied = chunks[i % len(chunks)]
        if copied is not None:
            copied.synchronize()
        memory = memory[: piece.numel()]
        read_into(memory, descriptor, offset + i * CHUNK_BYTES, torch.uint8)
        piece.copy_(memory, non_blocking=True)
        if copied is not None:
            copied.record()
    return target


def _chunks(device: torch.device) -> list[tuple[torch.Tensor, torch.cuda.Event | None]]:
    """Memory of this thread, and when the device will have copied from it."""
    cuda = device.type == "cuda"
    name = str(device)
    if not hasattr(_staged, name):
        memory = [
            torch.empty(CHUNK_BYTES, dtype=torch.uint8, device="cpu", pin_memory=cuda)
            for _ in range(2)
        ]
        setattr(_staged, name, [(one, torch.cuda.Event() if cuda else None) for one in memory])
    chunks: list[tuple[torch.Tensor, torch.cuda.Event | None]] = getattr(_staged, name)
    return chunks
