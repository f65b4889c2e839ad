"""Reading files into tensors, in the arrangement that a model wants."""

from __future__ import annotations

import itertools
import operator
import os
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch

# A tile stays in a core's cache while it is rearranged.
TILE_BYTES = 2 * 1024**2
# Blocks that one call each is worth.
BLOCK_BYTES = 64 * 1024
# Beyond as many elements PyTorch starts threads, for each of the threads that read.
SERIAL = 2**15 - 1
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_memory = threading.local()
_seeking = threading.Lock()


def read_into(target: torch.Tensor, descriptor: int, offset: int, dtype: torch.dtype) -> None:
    """Fill a tensor, of any strides and dtype, with numbers that a file holds in row-major order.

    Raises:
        OSError: the file cannot be read, or ends too early.
    """
    if target.dtype == dtype and target.is_contiguous():
        _read_bytes(descriptor, target, offset)
        return
    for piece in _pieces(target, dtype.itemsize):
        tile = _scratch("tile", piece.shape, dtype)
        _read_bytes(descriptor, tile, offset)
        offset += tile.nbytes
        _copy(piece, _converted(tile, target.dtype))


def read_view_into(
    target: torch.Tensor, descriptor: int, offset: int, dtype: torch.dtype, view: torch.Tensor
) -> None:
    """Fill a tensor with some of the numbers that a file holds, and read no others.

    Args:
        view: has the target's shape; where its numbers are in its memory, they are in the file
            from `offset` on.

    Raises:
        OSError: the file cannot be read, or ends too early.
    """
    if not view.numel():
        return
    offset += int(view.storage_offset()) * dtype.itemsize
    # Axes as they follow one another in the file.
    axes = [axis for axis, size in enumerate(view.shape) if size != 1]
    axes.sort(key=view.stride, reverse=True)
    sizes, steps = ([each(axis) for axis in axes] for each in (view.size, view.stride))
    target = target.as_strided(sizes, [target.stride(axis) for axis in axes])
    outer, run = len(axes), 1
    while outer and steps[outer - 1] == run:  # numbers that stand together
        outer -= 1
        run *= sizes[outer]
    rows = outer > 0 and run * dtype.itemsize < BLOCK_BYTES
    for index in itertools.product(*map(range, sizes[: outer - rows])):
        begin = offset + dtype.itemsize * sum(map(operator.mul, index, steps))
        if rows:
            _read_rows(target[index], descriptor, begin, dtype, steps[outer - 1])
        else:
            read_into(target[index], descriptor, begin, dtype)


def _read_rows(
    target: torch.Tensor, descriptor: int, offset: int, dtype: torch.dtype, step: int
) -> None:
    """Fill the rows of a tensor, of which each is `step` numbers behind the one before it."""
    size = dtype.itemsize * target[0].numel()
    for piece in target.split(max(TILE_BYTES // size, 1)):
        tile = _scratch("tile", piece.shape, dtype)
        memory = tile.view(-1).view(torch.uint8).numpy().data
        for begin in range(0, len(memory), size):
            _fill(memory[begin : begin + size], descriptor, offset)
            offset += step * dtype.itemsize
        _copy(piece, _converted(tile, target.dtype))


def _pieces(target: torch.Tensor, itemsize: int) -> Iterator[torch.Tensor]:
    """Views of a tile's size that follow one another in row-major order, if possible matrices."""
    axes: list[tuple[int, int]] = []
    for size, stride in zip(target.shape, target.stride()):
        if axes and axes[-1][1] == size * stride:  # one axis in memory
            axes[-1] = (axes[-1][0] * size, stride)
        elif size != 1:
            axes.append((size, stride))
    shape, strides = zip(*axes) if axes else ((1,), (1,))
    target = target.as_strided(shape, strides)
    row_bytes = itemsize * target[0].numel()
    if len(shape) > 2 and row_bytes >= BLOCK_BYTES:
        for row in target:
            yield from _pieces(row, itemsize)
    else:
        yield from target.split(max(TILE_BYTES // row_bytes, 16))


def _converted(tile: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if tile.dtype == dtype:
        return tile
    new = _scratch("converted", tile.shape, dtype)
    for part, old in zip(new.view(-1).split(SERIAL), tile.view(-1).split(SERIAL)):
        part.copy_(old)
    return new


def _copy(target: torch.Tensor, tile: torch.Tensor) -> None:
    """Copy numbers of one dtype as integers, in this thread alone."""
    integers = INTEGERS[target.itemsize]
    target, tile = target.view(integers), tile.view(integers)
    if tile.ndim == 2 and target.stride(0) < target.stride(1):
        # PyTorch transposes by blocks, at many times the speed, where both sides are whole.
        tile = _scratch("transposed", tile.T.shape, integers).copy_(tile.T).T
    np.copyto(target.numpy(), tile.numpy())


def _scratch(name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Memory of this thread, to be used again: warm, and not between the weights."""
    nbytes = torch.Size(shape).numel() * dtype.itemsize
    memory: torch.Tensor | None = getattr(_memory, name, None)
    if memory is None or memory.nbytes < nbytes:
        memory = torch.empty(nbytes, dtype=torch.uint8, device="cpu")
        setattr(_memory, name, memory)
    return memory[:nbytes].view(dtype).view(tuple(shape))


def _read_bytes(descriptor: int, memory: torch.Tensor, offset: int) -> None:
    _fill(memory.view(-1).view(torch.uint8).numpy().data, descriptor, offset)


def _fill(rest: memoryview, descriptor: int, offset: int) -> None:
    while rest:
        count = _read_some(descriptor, rest, offset)
        if not count:
            raise OSError("it ends too early")
        offset, rest = offset + count, rest[count:]


def _read_some(descriptor: int, memory: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [memory], offset)
    with _seeking:  # on Windows
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, min(len(memory), TILE_BYTES))
    memory[: len(data)] = data
    return len(data)
