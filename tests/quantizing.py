"""Checkpoints quantized in the test, by the published formats: weights → what a file holds of them.

Each function gives the tensors of one weight `[out, in]`, by suffixes of its module's name, and the
weight that they stand for, computed as the format's definition says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Packed = tuple[dict[str, torch.Tensor], torch.Tensor]
Quantizer = Callable[[tuple[int, int], torch.Generator], Packed]
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def integers(shape: Any, most: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, most + 1, tuple(shape), generator=generator)


def floats(shape: Any, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    return (torch.rand(tuple(shape), generator=generator) / 16 + 0.01).to(dtype)


def packed(rows: torch.Tensor, bits: int) -> torch.Tensor:
    """`[rows, numbers]` as int32 `[rows, words]`: each row is one large number."""
    words = math.ceil(rows.shape[1] * bits / 32)
    found = [
        sum(number << bits * i for i, number in enumerate(row)).to_bytes(4 * words, "little")
        for row in rows.tolist()
    ]
    return torch.from_numpy(np.frombuffer(b"".join(found), np.int32).reshape(-1, words).copy())


def gptq(
    bits: int = 4, size: int = -1, version: int = 1, act_order: bool = False, index: bool = True
) -> Quantizer:
    def make(shape: tuple[int, int], generator: torch.Generator) -> Packed:
        outputs, inputs = shape
        group = torch.arange(inputs) // (inputs if size == -1 else size)
        count = int(group.max()) + 1
        if act_order:
            group = group[torch.randperm(inputs, generator=generator)]
        most = 2**bits - 1
        codes = integers((inputs, outputs), most, generator)
        zeros = integers((count, outputs), most - 1, generator) + 1
        if version == 2:
            zeros -= 1
        scales = floats((count, outputs), generator, torch.float16)
        weight = (codes - zeros[group]) * scales.float()[group]
        stored = {
            ".qweight": packed(codes.T, bits).T.contiguous(),
            ".qzeros": packed(zeros - int(version == 1), bits),
            ".scales": scales,
        }
        return stored | ({".g_idx": group.int()} if index else {}), weight.T

    return make


def awq(size: int = -1, version: str = "gemm") -> Quantizer:
    def make(shape: tuple[int, int], generator: torch.Generator) -> Packed:
        outputs, inputs = shape
        each = inputs if size == -1 else size
        codes = integers(shape, 15, generator)
        zeros = integers((outputs, inputs // each), 15, generator)
        scales = floats(zeros.shape, generator, torch.float16)
        spread = [table.repeat_interleave(each, 1) for table in (zeros, scales.float())]
        weight = (codes - spread[0]) * spread[1]
        if version == "gemm":
            order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])

            def pack(table: torch.Tensor) -> torch.Tensor:
                return packed(table.T.unflatten(1, (-1, 8))[..., order].flatten(1), 4)

            stored = {".qweight": pack(codes), ".qzeros": pack(zeros), ".scales": scales.T}
        else:
            extra = -zeros.shape[1] % 8
            stored = {
                ".qweight": packed(codes, 4),
                ".qzeros": packed(zeros, 4),
                ".scales": torch.nn.functional.pad(scales, (0, extra)),
            }
        return {name: tensor.contiguous() for name, tensor in stored.items()}, weight

    return make


def int8_rows(shape: tuple[int, int], generator: torch.Generator) -> Packed:
    codes = (integers(shape, 254, generator) - 127).to(torch.int8)
    scales = floats(shape[:1], generator, torch.float32)
    stored = {".weight": codes, ".SCB": scales, ".weight_format": torch.tensor(0).byte()}
    return stored, codes.float() * scales[:, None] * (1 / 127)


def four_bits(
    kind: str = "nf4", block: int = 64, nested: bool = False, storage: str = "uint8"
) -> Quantizer:
    def make(shape: tuple[int, int], generator: torch.Generator) -> Packed:
        count = math.prod(shape)
        codes = integers((count + count % 2,), 15, generator).byte()
        table = torch.tensor(NF4) if kind == "nf4" else torch.randn(16, generator=generator)
        blocks = math.ceil(count / block)
        scales = floats((blocks,), generator, torch.float32)
        state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16"}
        state["shape"] = list(shape)
        stored = {}
        if nested:
            bytes_ = integers((blocks,), 255, generator).byte()
            inner = torch.randn(256, generator=generator)
            outer = floats((math.ceil(blocks / 4),), generator, torch.float32)
            state |= {"nested_blocksize": 4, "nested_dtype": "float32", "nested_offset": 0.25}
            scales = inner[bytes_.long()] * outer[torch.arange(blocks) // 4] + 0.25
            stored = {".weight.nested_absmax": outer, ".weight.nested_quant_map": inner}
        else:
            bytes_ = scales
        weight = table[codes[:count].long()] * scales[torch.arange(count) // block]
        text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        pairs = codes[::2] * 16 + codes[1::2]
        return {
            ".weight": pairs.view(getattr(torch, storage))[:, None],
            ".weight.absmax": bytes_,
            ".weight.quant_map": table,
            f".weight.quant_state.bitsandbytes__{kind}": text,
            **stored,
        }, weight.view(shape)

    return make


def fp8(
    blocks: tuple[int, int] | None = None,
    rows: bool = False,
    scale: str = ".weight_scale_inv",
    dtype: torch.dtype = torch.float32,
    **others: torch.Tensor,
) -> Quantizer:
    def make(shape: tuple[int, int], generator: torch.Generator) -> Packed:
        codes = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)
        each = blocks or ((1 if rows else shape[0]), shape[1])
        sizes = [math.ceil(size / one) for size, one in zip(shape, each)]
        scales = floats(sizes, generator, dtype)
        if dtype == torch.uint8:
            scales = integers(sizes, 4, generator).byte() + 123
        values = torch.exp2(scales.float() - 127) if dtype == torch.uint8 else scales.float()
        for axis, (size, one) in enumerate(zip(shape, each)):
            values = values.index_select(axis, torch.arange(size) // one)
        if blocks is None and not rows:
            scales = scales.reshape(())
        return {".weight": codes, scale: scales, **others}, codes.float() * values

    return make


def compressed(
    bits: int = 4,
    size: int | None = None,
    symmetric: bool = True,
    act_order: bool = False,
    pack: bool = True,
    **others: torch.Tensor,
) -> Quantizer:
    def make(shape: tuple[int, int], generator: torch.Generator) -> Packed:
        half = 2 ** (bits - 1)
        group = torch.arange(shape[1]) // (size or shape[1])
        count = int(group.max()) + 1
        if act_order:
            group = group[torch.randperm(shape[1], generator=generator)]
        codes = integers(shape, 2 * half - 1, generator)
        zeros = integers((shape[0], count), 2 * half - 1, generator)
        if symmetric:
            zeros = torch.full_like(zeros, half)
        scales = floats(zeros.shape, generator, torch.bfloat16)
        weight = (codes - zeros[:, group]) * scales.float()[:, group]
        if pack:
            stored = {".weight_packed": packed(codes, bits), ".weight_shape": torch.tensor(shape)}
            stored[".weight_zero_point"] = packed(zeros.T, bits).T.contiguous()
        else:
            stored = {".weight": (codes - half).to(torch.int8)}
            stored[".weight_zero_point"] = (zeros - half).to(torch.int8)
        if symmetric:
            del stored[".weight_zero_point"]
        if act_order:
            stored[".weight_g_idx"] = group.int()
        return {**stored, ".weight_scale": scales, **others}, weight

    return make
