"""Numbers of few bits: how Keras rounds to integers and float8, and packs two of four bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

EPSILON = 1e-7
INT4 = (-8, 7)
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


@dataclass(frozen=True)
class AbsMaxQuantizer:
    """Integers of the range, of which the largest stands for the largest absolute value.

    Args:
        axis: of weights, is that of the layer's inputs, whatever is given.
        value_range: smallest and largest integer.
        epsilon: is added to the largest value.
        output_dtype: `int8`.

    Raises:
        ValueError: a range beyond int8's.
    """

    axis: int | tuple[int, ...] | None = None
    value_range: tuple[int, int] = (-127, 127)
    epsilon: float = EPSILON
    output_dtype: str = "int8"

    def __post_init__(self) -> None:
        low, high = self.value_range
        object.__setattr__(self, "value_range", (low, high))
        if self.output_dtype == "int8" and not -128 <= low < high <= 127:
            raise ValueError(f"value_range must be within [-128, 127], not {self.value_range}.")

    def largest(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        return x.abs().amax(dim, keepdim=True)

    def __call__(self, x: torch.Tensor, dim: int = -1) -> tuple[torch.Tensor, torch.Tensor]:
        """Integers in the dtype of `x`, and the scale they are to be divided by."""
        low, high = self.value_range
        largest = self.largest(x, dim) + self.epsilon
        scale = torch.full_like(largest, high) / largest  # a number would be times 1 / largest
        return (x * scale).round().clamp(low, high), scale


def quantize_groups(x: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """`x` `[rows, inputs]` → int4, scale and zero of each `size` inputs `[rows, groups]`."""
    _rows, inputs = x.shape
    low, high = INT4
    groups = F.pad(x, (0, -inputs % size)).unflatten(1, (-1, size))
    smallest, largest = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    # NumPy, with which Keras computes it, rounds the difference of bfloat16, and nothing else.
    scale = ((largest - smallest).float() + EPSILON) / (high - low)
    zero = ((-smallest / scale).round() + low).clamp(low, high)
    integers = ((groups / scale).round() + zero).clamp(low, high)
    return integers.flatten(1)[:, :inputs].to(torch.int8), scale[..., 0], zero[..., 0]


def pack_int4(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Two neighbours along `dim` as a byte, the first one in its lower half; an odd last one
    stands alone.
    """
    x = x.movedim(dim, -1)
    x = F.pad(x, (0, x.shape[-1] % 2)).unflatten(-1, (-1, 2))
    return ((x[..., 0] & 15) | (x[..., 1] << 4)).movedim(-1, dim)


def unpack_int4(x: torch.Tensor, size: int, dim: int) -> torch.Tensor:
    """What `pack_int4` has made of `size` numbers; int8 is signed, uint8 is not."""
    halves = torch.stack(((x << 4) >> 4, x >> 4), dim + 1 if dim >= 0 else dim)
    return halves.flatten(*((dim, dim + 1) if dim >= 0 else (dim - 1, dim))).narrow(dim, 0, size)


def dequantize_groups(
    integers: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, groups: torch.Tensor
) -> torch.Tensor:
    """`(integers - zero) · scale` of integers `[..., inputs]` and groups `[..., groups]`.

    Args:
        groups: which one each input is in.
    """
    groups = groups.int()
    # To take whole rows is many times as fast as to take one number at a time.
    scale, zero = (x.movedim(-1, 0).contiguous().index_select(0, groups) for x in (scale, zero))
    values = integers.movedim(-1, 0).contiguous() - zero.to(scale.dtype)
    return values.mul_(scale).movedim(0, -1)


def dequantize_blocks(
    integers: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, size: int
) -> torch.Tensor:
    """The same where each `size` inputs are a group."""
    count = integers.shape[-1]
    if count % size:
        integers = F.pad(integers, (0, -count % size))
    values = integers.unflatten(-1, (-1, size)) - zero.to(scale.dtype)[..., None]
    return values.mul_(scale[..., None]).flatten(-2)[..., :count]


def through_float8(x: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`x` as it comes out of float8."""
    scale = scale.to(x.dtype)
    return to_float8(x, scale, dtype).to(x.dtype) * scale


def to_float8(x: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    largest = torch.finfo(dtype).max
    return (x / scale).clamp(-largest, largest).to(dtype)


@torch.no_grad()
def observe(
    x: torch.Tensor, scale: torch.Tensor, history: torch.Tensor, dtype: torch.dtype
) -> None:
    """The next `scale`, of the largest in the history, which `x` then joins; both in place."""
    largest = history.amax()
    factor = torch.full_like(largest, torch.finfo(dtype).max) / largest
    factor = torch.where((largest > 0) & largest.isfinite(), factor, 1 / scale)
    history.copy_(torch.cat((x.abs().amax().to(history.dtype)[None], history.roll(-1)[1:])))
    scale.copy_(1 / factor)
