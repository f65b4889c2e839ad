"""compressed-tensors, as LLM Compressor writes it: packed integers, int8, and eight-bit floats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..files import FLOATS
from .fp8 import grid, on_grid, pair
from .packing import (
    ACTIVATIONS,
    FLOAT8,
    INT8,
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
    unpack,
    words,
)

FORMAT_NAMES = (
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "mixed-precision",
)
INT64 = frozenset(("I64", "int64"))


def _check(settings: Settings) -> None:
    one_of(settings, "format", "pack-quantized", *FORMAT_NAMES)
    sparse = settings.get("sparsity_config") or {}
    if isinstance(sparse, Mapping):
        one_of(sparse, "format", "dense", "dense")
    for group in _groups(settings):
        one_of(group, "format", FORMAT_NAMES[0], *FORMAT_NAMES)
    for weights in _weights(settings):
        kind = one_of(weights, "type", "int", "int", "float")
        one_of(weights, "num_bits", 8, *((8,) if kind == "float" else range(1, 9)))
        one_of(weights, "strategy", "tensor", "tensor", "channel", "group", "block")
        size = weights.get("group_size")
        if size is not None and type(size) is not int:
            raise ValueError(f"group_size is {size!r}, no number")
    _blocks(settings)


def _groups(settings: Settings) -> list[Mapping[str, Any]]:
    """What several sets of layers are quantized by."""
    groups = settings.get("config_groups") or {}
    found = list(groups.values()) if isinstance(groups, Mapping) else [groups]
    if not found or not all(
        isinstance(group, Mapping) and isinstance(group.get("weights") or {}, Mapping)
        for group in found
    ):
        raise ValueError("config_groups does not say how weights are quantized")
    return found


def _weights(settings: Settings) -> list[Mapping[str, Any]]:
    return [group["weights"] for group in _groups(settings) if group.get("weights")]


def _blocks(settings: Settings) -> tuple[int, int] | None:
    """Of the set of layers that has a scale for each block; `None` if there is none."""
    found = [
        weights.get("block_structure")
        for weights in _weights(settings)
        if weights.get("strategy") == "block"
    ]
    if not found:
        return None
    sizes = found[0]
    if sizes is None or any(other != sizes for other in found):
        raise ValueError("block_structure must be the same wherever blocks have scales")
    return pair(sizes, "block_structure")


def _bits(settings: Settings, columns: int, packed: int) -> int:
    """Of the numbers of bits that layers have the one of this number of columns, packed."""
    known = {weights.get("num_bits") or 8 for weights in _weights(settings)}
    fitting = [bits for bits in known if words(columns, bits) == packed]
    if len(fitting) != 1:
        given = " or ".join(map(str, sorted(known)))
        raise ValueError(f"{columns} columns of {given} bits are not packed into {packed}")
    return fitting[0]


def _count(parts: Parts, settings: Settings, columns: int) -> int:
    """How many groups of columns have one scale each."""
    scale = parts[".weight_scale"]
    count = max(scale.shape[-1] if scale.shape else 1, 1)
    check_divisible(columns, count, "columns")
    sizes = {one.get("group_size") for one in _weights(settings)}
    if count > 1 and columns // count not in sizes:
        known = " or ".join(map(str, sizes))
        raise ValueError(
            f"{scale.name} is {scale.shape}: groups of {columns // count}, not {known}"
        )
    if ".weight_g_idx" in parts:
        check_shape(parts[".weight_g_idx"], (columns,))
    return count


def _check_zeros(parts: Parts, settings: Settings, *shapes: tuple[int, ...]) -> None:
    zeros = parts.get(".weight_zero_point")
    if zeros is not None:
        check_shape(zeros, *shapes)
    elif all(one.get("symmetric") is False for one in _weights(settings)):
        raise ValueError("weight_zero_point missing, and symmetric is False")


def _packed_shape(parts: Parts, settings: Settings) -> tuple[int, ...]:
    packed, scale = parts[".weight_packed"], parts[".weight_scale"]
    rows, _ = matrix(packed)
    check_shape(parts[".weight_shape"], (2,))
    shape = tuple(parts[".weight_shape"].read().tolist())
    if shape[0] != rows or not 0 < shape[1] <= packed.shape[1] * 32:
        raise ValueError(f"{packed.name} is {packed.shape}, not a packed {shape}")
    bits = _bits(settings, shape[1], packed.shape[1])
    groups = _count(parts, settings, shape[1])
    check_shape(scale, (rows, groups), *([(), (1,)] if groups == 1 else []))
    zeros = parts.get(".weight_zero_point")
    packed_too = zeros is not None and zeros.dtype in INT32
    _check_zeros(parts, settings, (words(rows, bits), groups) if packed_too else scale.shape)
    return shape


def _packed_values(found: Values, settings: Settings, shape: tuple[int, ...]) -> torch.Tensor:
    packed, scales = found[".weight_packed"], found[".weight_scale"]
    rows, columns = shape
    bits = _bits(settings, columns, packed.shape[1])
    middle = 1 << bits - 1  # codes are counted from the smallest one
    zeros: torch.Tensor | int = middle
    if ".weight_zero_point" in found:
        zeros = found[".weight_zero_point"]
        if zeros.dtype == torch.int32:
            zeros = unpack(zeros.T, bits, rows).T
        else:
            zeros = zeros.int() + middle
    codes = unpack(packed, bits, columns)
    return _scaled(codes, scales, zeros, found.get(".weight_g_idx"))


def _scaled(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | int | None,
    index: torch.Tensor | None,
) -> torch.Tensor:
    scales = scales if scales.dim() == 2 else scales.reshape(1, 1)
    if isinstance(zeros, torch.Tensor) and zeros.dim() < 2:
        zeros = zeros.reshape(1, 1)
    groups = scales.shape[1]
    if index is not None and bool((index == -1).any()):  # never set
        index = None
    index = index_of_groups(index, "weight_g_idx", groups)
    return scaled(codes, scales, zeros, index, (1, codes.shape[1] // groups))


def _plain_shape(parts: Parts, settings: Settings) -> tuple[int, ...]:
    weight, scale = parts[".weight"], parts[".weight_scale"]
    rows, columns = matrix(weight)
    if len(scale.shape) == 2 and scale.shape[0] == rows:
        _count(parts, settings, columns)
    else:
        grid(weight, scale, None if math.prod(scale.shape) == 1 else _blocks(settings))
    _check_zeros(parts, settings, scale.shape)
    return rows, columns


def _plain_values(found: Values, settings: Settings, shape: tuple[int, ...]) -> torch.Tensor:
    weight, scales = found[".weight"], found[".weight_scale"]
    zeros, index = found.get(".weight_zero_point"), found.get(".weight_g_idx")
    if scales.numel() == 1 or scales.shape[0] == shape[0]:
        return _scaled(weight, scales, zeros, index)
    if zeros is not None and bool(zeros.any()):
        raise ValueError("weight_zero_point of blocks is not zero")
    return on_grid(weight, scales, _blocks(settings))


PACKED = Packing(
    {".weight_scale": FLOATS, ".weight_shape": INT64 | INT32, ".weight_packed": INT32},
    _packed_shape,
    _packed_values,
    {".weight_zero_point": INT32 | INT8, ".weight_g_idx": INT32},
)
PLAIN = Packing(
    {".weight": INT8 | FLOAT8, ".weight_scale": FLOATS},
    _plain_shape,
    _plain_values,
    {".weight_zero_point": INT8 | FLOAT8, ".weight_g_idx": INT32},
)
FORMATS = (Format("compressed-tensors", _check, (PACKED, PLAIN), ACTIVATIONS),)
