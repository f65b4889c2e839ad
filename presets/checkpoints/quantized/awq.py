"""AWQ, as AutoAWQ writes it.

`qweight` packs outputs in `gemm`, `[in, out / 8]`, and inputs in `gemv`, `[out, in / 8]`.
"""

from __future__ import annotations

import math

import torch

from ..files import FLOATS
from .packing import (
    INT32,
    Format,
    Packing,
    Parts,
    Settings,
    Values,
    check_divisible,
    check_shape,
    matrix,
    one_of,
    scaled,
    size_of_groups,
    unpack,
)

BITS, EACH = 4, 8
# Where gemm has each of eight outputs within a word.
ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


def _check(settings: Settings) -> None:
    one_of(settings, "bits", BITS, BITS)
    size_of_groups(settings)
    _version(settings)


def _version(settings: Settings) -> str:
    name = "format" if settings.get("version") is None else "version"
    version = settings.get(name)
    lower = {name: version.lower() if isinstance(version, str) else version}
    return str(one_of(lower, name, "gemm", "gemm", "gemv"))


def _groups(settings: Settings, inputs: int) -> int:
    size = size_of_groups(settings) or max(inputs, 1)
    check_divisible(inputs, size, "inputs")
    return inputs // size


def _shape(parts: Parts, settings: Settings) -> tuple[int, ...]:
    qweight, qzeros, scales = parts[".qweight"], parts[".qzeros"], parts[".scales"]
    if _version(settings) == "gemm":
        inputs, columns = matrix(qweight)
        groups = _groups(settings, inputs)
        check_shape(qzeros, (groups, columns))
        check_shape(scales, (groups, columns * EACH))
        return columns * EACH, inputs
    outputs, columns = matrix(qweight)
    groups = _groups(settings, columns * EACH)
    # Rows are filled up to a multiple that the kernel wants.
    multiple = {32: 4, 64: 2}.get(size_of_groups(settings) or 128, 1)
    width = math.ceil(groups / EACH / multiple) * multiple
    check_shape(qzeros, (outputs, width))
    check_shape(scales, (outputs, width * EACH))
    return outputs, columns * EACH


def _values(found: Values, settings: Settings, shape: tuple[int, ...]) -> torch.Tensor:
    inputs = shape[1]
    size = size_of_groups(settings) or inputs
    qweight, qzeros, scales = found[".qweight"], found[".qzeros"], found[".scales"]
    if _version(settings) == "gemm":
        return scaled(_ordered(qweight), scales, _ordered(qzeros), blocks=(size, 1)).T
    groups = inputs // size
    zeros = unpack(qzeros, BITS, groups)
    return scaled(unpack(qweight, BITS, inputs), scales[:, :groups], zeros, blocks=(1, size))


def _ordered(packed: torch.Tensor) -> torch.Tensor:
    """`[rows, outputs / 8]` → `[rows, outputs]`."""
    codes = unpack(packed, BITS, packed.shape[1] * EACH)
    return codes.unflatten(1, (-1, EACH))[..., list(ORDER)].flatten(1)


AWQ = Format(
    "awq",
    _check,
    (Packing({".qzeros": INT32, ".scales": FLOATS, ".qweight": INT32}, _shape, _values),),
)
FORMATS = (AWQ,)
