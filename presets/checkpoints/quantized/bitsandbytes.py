"""bitsandbytes: int8 with a scale for each row; nf4 and fp4 with one for each block."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from ..files import FLOATS
from .packing import (
    ANY,
    INT8,
    UINT8,
    Format,
    Packing,
    Parts,
    Settings,
    Values,
    check_shape,
    is_size,
    matrix,
)

# The largest code stands for the row's largest weight.
STEP = 1 / 127
MAX_STATE = 10_000
# Numbers that are computed together; even, as there are two in a byte.
AT_ONCE = 2**20


def _check(settings: Settings) -> None:
    """What it says of weights is said again beside them."""


def _shape_of_rows(parts: Parts, settings: Settings) -> tuple[int, ...]:
    outputs, inputs = matrix(parts[".weight"])
    check_shape(parts[".SCB"], (outputs,))
    if ".weight_format" in parts:
        check_shape(parts[".weight_format"], ())
    return outputs, inputs


def _values_of_rows(found: Values, settings: Settings, shape: tuple[int, ...]) -> torch.Tensor:
    arrangement = found.get(".weight_format")
    if arrangement is not None and int(arrangement):
        raise ValueError("weight_format is not that of rows, but arranged for a GPU")
    return found[".weight"].float().mul_(found[".SCB"].float()[:, None]).mul_(STEP)


def _state(state: torch.Tensor) -> dict[str, Any]:
    """What is kept as JSON in a tensor of bytes.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(bytes(state.tolist()))
        shape, size = found["shape"], found["blocksize"]
        inner = found.get("nested_blocksize", 1)
        fits = (
            isinstance(shape, list)
            and all(map(is_size, (*shape, size, inner)))
            and isinstance(found.get("nested_offset", 0.0), (int, float))
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise ValueError("quant_state is none")
    return dict(found)


def _shape_of_blocks(parts: Parts, settings: Settings) -> tuple[int, ...]:
    states = [suffix for suffix in STATES if suffix in parts]
    if len(states) != 1:
        raise ValueError(f"one of {' and '.join(STATES)} is needed, not {len(states)}")
    stored = parts[states[0]]
    if len(stored.shape) != 1 or stored.shape[0] > MAX_STATE:
        raise ValueError(f"{stored.name} is {stored.shape}, no bytes of a few settings")
    state = _state(stored.read())
    shape = tuple(state["shape"])
    count = math.prod(shape)
    blocks = math.ceil(count / state["blocksize"])
    weight = parts[".weight"]
    if math.prod(weight.shape) * _itemsize(weight.dtype) != math.ceil(count / 2):
        raise ValueError(f"{weight.name} is {weight.shape}, not half a byte for each of {shape}")
    check_shape(parts[".weight.quant_map"], (16,))
    check_shape(parts[".weight.absmax"], (blocks,))
    nested = [suffix in parts for suffix in NESTED]
    if any(nested) != (parts[".weight.absmax"].dtype in UINT8) or any(nested) != all(nested):
        raise ValueError(
            f"{' and '.join(NESTED)} are needed where absmax is quantized, and only there"
        )
    if all(nested):
        outer = math.ceil(blocks / state.get("nested_blocksize", 256))
        check_shape(parts[".weight.nested_absmax"], (outer,))
        check_shape(parts[".weight.nested_quant_map"], (256,))
    return shape


def _itemsize(dtype: str) -> int:
    """Bytes may be kept under the name of any number."""
    return 1 if dtype in UINT8 | INT8 else 4 if "32" in dtype else 2


def _values_of_blocks(found: Values, settings: Settings, shape: tuple[int, ...]) -> torch.Tensor:
    """Two numbers a byte, high half first."""
    state = _state(next(found[suffix] for suffix in STATES if suffix in found))
    size, scales = state["blocksize"], found[".weight.absmax"]
    if ".weight.nested_absmax" in found:
        outer = torch.arange(len(scales)) // state.get("nested_blocksize", 256)
        scales = found[".weight.nested_quant_map"].float()[scales.int()]
        scales *= found[".weight.nested_absmax"].float()[outer]
        scales += state.get("nested_offset", 0.0)
    table, scales = found[".weight.quant_map"].float(), scales.float()
    packed = found[".weight"].contiguous().view(torch.uint8).flatten()
    result = torch.empty(math.prod(shape))
    for begin in range(0, len(result), AT_ONCE):
        part = result[begin : begin + AT_ONCE]
        pairs = packed[begin // 2 : (begin + AT_ONCE) // 2]
        codes = torch.stack((pairs >> 4, pairs & 15), dim=-1).flatten()[: len(part)]
        blocks = torch.arange(begin, begin + len(part)) // size
        torch.mul(table[codes.int()], scales[blocks], out=part)
    return result.view(shape)


STATES = (
    ".weight.quant_state.bitsandbytes__nf4",
    ".weight.quant_state.bitsandbytes__fp4",
)
NESTED = (".weight.nested_absmax", ".weight.nested_quant_map")
ROWS = Packing(
    {".weight": INT8, ".SCB": FLOATS},
    _shape_of_rows,
    _values_of_rows,
    {".weight_format": UINT8},
)
BLOCKS = Packing(
    {".weight": ANY, ".weight.quant_map": FLOATS, ".weight.absmax": FLOATS | UINT8},
    _shape_of_blocks,
    _values_of_blocks,
    dict.fromkeys(STATES, UINT8) | dict.fromkeys(NESTED, FLOATS),
)
FORMATS = (Format("bitsandbytes", _check, (ROWS, BLOCKS)),)
