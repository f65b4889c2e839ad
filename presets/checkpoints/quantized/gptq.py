"""GPTQ, as AutoGPTQ and GPTQModel write it.

`qweight` packs inputs, `[in · bits / 32, out]`, and `qzeros` outputs, `[groups, out · bits / 32]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

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
    index_of_groups,
    matrix,
    one_of,
    scaled,
    size_of_groups,
    unpack,
    words,
)


def _check(settings: Settings) -> None:
    one_of(settings, "bits", 4, 2, 3, 4, 8)
    size_of_groups(settings)
    _version(settings)
    one_of(settings, "pack_dtype", "int32", "int32")
    if settings.get("is_marlin_format"):
        raise ValueError("is_marlin_format is True; weights arranged for a GPU cannot be read")
    dynamic = settings.get("dynamic") or {}
    if not isinstance(dynamic, Mapping) or any(
        not str(pattern).startswith("-:") for pattern in dynamic
    ):
        raise ValueError("dynamic gives layers settings of their own, which cannot be read")


def _version(settings: Settings) -> str:
    name = "format" if settings.get("checkpoint_format") is None else "checkpoint_format"
    return str(one_of(settings, name, "gptq", "gptq", "gptq_v2"))


def _shape(parts: Parts, settings: Settings) -> tuple[int, ...]:
    bits = settings.get("bits") or 4
    rows, outputs = matrix(parts[".qweight"])
    check_divisible(rows * 32, bits, "packed bits")
    inputs = rows * 32 // bits
    groups = math.ceil(inputs / (size_of_groups(settings) or max(inputs, 1)))
    check_shape(parts[".qzeros"], (groups, words(outputs, bits)))
    check_shape(parts[".scales"], (groups, outputs))
    if ".g_idx" in parts:
        check_shape(parts[".g_idx"], (inputs,))
    return outputs, inputs


def _values(found: Values, settings: Settings, shape: tuple[int, ...]) -> torch.Tensor:
    bits = settings.get("bits") or 4
    outputs, inputs = shape
    scales, packed = found[".scales"], found[".qzeros"]
    first = _version(settings) == "gptq"
    if first and 32 % bits == 0:
        # Files say zero - 1, subtracted from whole words: a zero of 0 borrows of its neighbour.
        packed = packed + sum(1 << i for i in range(0, 31, bits))
    zeros = unpack(packed, bits, outputs)
    if first and 32 % bits:
        zeros = (zeros + 1) & ((1 << bits) - 1)
    codes = unpack(found[".qweight"].T, bits, inputs)
    index = index_of_groups(found.get(".g_idx"), "g_idx", len(scales))
    size = size_of_groups(settings) or inputs
    return scaled(codes, scales.T, zeros.T, index, (1, size))


GPTQ = Format(
    "gptq",
    _check,
    (
        Packing(
            {".qzeros": INT32, ".scales": FLOATS, ".qweight": INT32},
            _shape,
            _values,
            {".g_idx": INT32},
        ),
    ),
)
FORMATS = (GPTQ,)
