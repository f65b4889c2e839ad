"""MXFP4 of gpt-oss: four bits each and an exponent for 32. (OCP Microscaling Formats, 2023.)"""

from __future__ import annotations

import torch

from .packing import UINT8, Format, Packing, Parts, Settings, Values, check_shape

# Sign, two bits of exponent, one of mantissa.
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
BLOCK = 32


def _check(settings: Settings) -> None:
    """There is nothing to choose."""


def _shape(parts: Parts, settings: Settings) -> tuple[int, ...]:
    """Of blocks `[experts, out, groups, 16]`."""
    blocks, scales = parts["_blocks"], parts["_scales"]
    if len(blocks.shape) != 4 or blocks.shape[3] != BLOCK // 2:
        raise ValueError(f"{blocks.name} is {blocks.shape}, not blocks of {BLOCK // 2} bytes")
    check_shape(scales, blocks.shape[:3])
    experts, outputs, groups, _ = blocks.shape
    return experts, groups * BLOCK, outputs


def _values(found: Values, settings: Settings, shape: tuple[int, ...]) -> torch.Tensor:
    """Two numbers a byte, low half first; one expert at a time, in bfloat16, which holds them
    exactly.
    """
    table = torch.tensor((*FP4, *(-value for value in FP4)))
    weight = torch.empty(shape, dtype=torch.bfloat16)
    for expert, (packed, exponent) in enumerate(zip(found["_blocks"], found["_scales"])):
        codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)  # [out, groups, 32]
        scale = torch.exp2(exponent.float() - 127)
        weight[expert] = (table[codes.int()] * scale[..., None]).flatten(1).T
    return weight


EXPERTS = Packing({"_scales": UINT8, "_blocks": UINT8}, _shape, _values, weight="")
FORMATS = (Format("mxfp4", _check, (EXPERTS,)),)
