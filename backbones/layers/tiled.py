"""Weights of four bits as torch's own kernels take them, in tiles, for inference in bfloat16.

They are (code - 8) · scale + shift, the shift rounded to bfloat16 as the scale is. Tiles are for
one kind of device. A layer keeps its weights in no other form, except for a table of tokens, whose
rows cannot be read of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from .integers import unpack_int4
from .products import FEW, VECTORIZED, few
from .quantized import (
    AWQDense,
    GPTQDense,
    Int4Dense,
    PackedDense,
    Quantized,
    QuantizedDense,
    QuantizedReversibleEmbedding,
)

# Inputs that a kernel lets share a scale.
GROUPS = (256, 128, 64, 32)
# Outputs in a tile of the CPU's, the first half of them in the lower halves of its bytes.
WIDTH = {"AVX512": 64, "AVX2": 32}[torch.backends.cpu.get_cpu_capability()] if VECTORIZED else 0
# What the number of outputs is filled up to a multiple of.
MULTIPLES = {"cpu": WIDTH, "cuda": 8}


class Tiled(Quantized):
    """What layers with tiles share: they stay where they are, and as they are.

    `tiles` are known to the kernel alone; `tile_scales` are `[groups, out, 2]`, scales and shifts.
    """

    compute_dtype: torch.dtype | None
    tiles: torch.Tensor
    tile_scales: torch.Tensor

    @classmethod
    def of(cls, layer: Any) -> Tiled | None:
        """The layer with tiles; `None` where no kernel takes them."""
        raise NotImplementedError

    @classmethod
    def taken_over(
        cls, layer: Quantized, tiles: tuple[torch.Tensor, torch.Tensor], *dropped: str
    ) -> Tiled:
        """A layer with tiles in place of some buffers of another one, and with all else it has."""
        tiled = cls.__new__(cls)
        tiled.__dict__.update(layer.__dict__)
        tiled.__dict__["_parameters"] = dict(layer._parameters)
        kept = {name: x for name, x in layer._buffers.items() if name not in dropped}
        tiled.__dict__["_buffers"] = kept | dict(zip(("tiles", "tile_scales"), tiles))
        tiled.compute_dtype = torch.bfloat16
        return tiled

    def matrix(self, inputs: int) -> torch.Tensor:
        """The weights `[in, out]`, inputs in the order of the groups."""
        return dequantize_tiles(self.tiles, self.tile_scales, inputs)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        old = self.tile_scales
        new = fn(old.new_empty(0))
        if new.dtype != old.dtype or new.device.type not in (old.device.type, "meta"):
            raise ValueError(
                f"fuse() arranged the weights of four bits for bfloat16 on {old.device.type}: move "
                "or cast the model that it was given, and fuse that."
            )
        return super()._apply(fn, recurse)


class TiledDense(Tiled, QuantizedDense):
    """A projection whose weights are in tiles.

    Attributes:
        order: which input comes when, where groups are not in order.
        awq_scales: what inputs are divided by.
    """

    order: torch.Tensor | None
    awq_scales: torch.Tensor | None

    @classmethod
    def of(cls, layer: PackedDense) -> TiledDense | None:
        awq_scales = layer._buffers.get("awq_scales")
        if layer.quantization.bits > 4 or (awq_scales is not None and not layer.plain):
            return None
        integers, scale = layer.weight, layer.kernel_scale
        if layer.quantization.bits == 4:
            integers = unpack_int4(integers, layer.columns, 0)
        group = group_of_each(layer.rows, layer.g_idx, integers.device)
        if not layer.plain:  # a weight's scale depends on the output, the input, and both
            group = numbered(layer.columns, scale, group)
            matrices = (matrix.T.reshape(layer.kernel_shape) for matrix in (integers, group))
            integers, group = (layer.from_kernel(kernel) for kernel in matrices)
        tiles = arranged(layer, integers, scale, layer.kernel_zero, group)
        if tiles is None:
            return None
        dropped = ("weight", "kernel_scale", "kernel_zero", "g_idx")
        tiled = cast(TiledDense, cls.taken_over(layer, tiles[:2], *dropped))
        tiled.register_buffer("order", tiles[2])
        tiled.awq_scales = awq_scales
        return tiled

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        if self.awq_scales is not None:
            x = x / self.awq_scales.to(x.dtype)
        if self.order is not None:
            x = x.index_select(-1, self.order)
        return multiply_tiles(x, self.tiles, self.tile_scales, self.out_features)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        matrix = self.matrix(self.in_features)
        if self.order is not None:
            matrix = matrix.index_select(0, self.order.argsort())
        if self.awq_scales is not None:
            matrix = matrix / self.awq_scales.to(matrix.dtype)[:, None]
        return matrix.T[: self.out_features].to(dtype)


class TiledReversibleEmbedding(Tiled, QuantizedReversibleEmbedding):
    """Tokens' vectors are read of the table, logits are products with tiles."""

    @classmethod
    def of(cls, layer: QuantizedReversibleEmbedding) -> TiledReversibleEmbedding | None:
        if layer.quantization.bits != 4 or not layer.in_order:
            return None
        integers, scale, zero = layer.reverse_table(layer.embeddings_scale.dtype)
        group = group_of_each(layer.embedding_dim, layer.g_idx, integers.device)
        integers = unpack_int4(integers, layer.columns, -1)
        tiles = arranged(layer, integers, scale, zero, group)
        if tiles is None:
            return None
        reverse = [name for name in layer._buffers if name.startswith("reverse_")]
        return cast(TiledReversibleEmbedding, cls.taken_over(layer, tiles[:2], *reverse))

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        return multiply_tiles(x, self.tiles, self.tile_scales, self.num_embeddings)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        return self.matrix(self.embedding_dim).T[: self.num_embeddings].to(dtype)


TILED: dict[type[nn.Module], type[Tiled]] = {
    Int4Dense: TiledDense,
    GPTQDense: TiledDense,
    AWQDense: TiledDense,
    QuantizedReversibleEmbedding: TiledReversibleEmbedding,
}


@torch.no_grad()
def tile_layers(model: nn.Module) -> int:
    """Give layers of four bits tiles in place of their weights, wherever a kernel takes them.

    Returns:
        How many layers have them now.
    """
    made: dict[int, Tiled | None] = {}
    for path, layer in list(model.named_modules(remove_duplicate=False)):
        kind = TILED.get(type(layer))  # not of an adapted one
        if kind is None or not path:
            continue
        if id(layer) not in made:
            made[id(layer)] = kind.of(cast(Quantized, layer))
        tiled = made[id(layer)]
        if tiled is not None:
            model.set_submodule(path, tiled)
    return sum(tiled is not None for tiled in made.values())


def group_of_each(inputs: int, index: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """The group of each input, `[1, in]`."""
    if index is None:
        return torch.zeros(1, inputs, dtype=torch.int32, device=device)
    return index.int()[None]


def numbered(outputs: int, scale: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Groups of inputs `[1, in]` → groups of weights `[out, in]`, in the order of scales."""
    first = torch.arange(0, scale.numel(), scale.numel() // outputs, device=group.device)
    return first.int()[:, None] + group


def in_blocks(group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Groups `[..., in]` → those of blocks `[..., blocks]`, if inputs, as they come or in another
    order, fall into blocks that have one each; and that order.
    """
    for order in (None, group[0].argsort(stable=True)):
        ordered = group if order is None else group.index_select(1, order)
        for size in GROUPS:
            if group.shape[1] % size == 0:
                blocks = ordered.unflatten(1, (-1, size))
                if torch.equal(blocks, blocks[..., :1].expand_as(blocks)):
                    return blocks[..., 0], order
    return None


def arranged(
    layer: Quantized,
    integers: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None,
    group: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None:
    """Tiles, their scales, and the order of inputs, of weights `[out, in]`; `None` where no kernel
    takes them.

    Args:
        scale, zero: of all groups; without zeros the weights are divided by scales.
        group: of each input `[1, in]`, or of each weight `[out, in]`.
    """
    multiple = MULTIPLES.get(integers.device.type, 0)
    dtype = layer.compute_dtype or scale.dtype
    if dtype != torch.bfloat16 or layer.activations is not None or not multiple:
        return None
    blocks = in_blocks(group)
    if blocks is None:
        return None
    group, order = blocks
    integers = integers if order is None else integers.index_select(1, order)
    # Codes are around 8, so that shifts, and what is rounded of them, are small.
    middle = 8 if integers.dtype == torch.int8 else 8 - 2 ** (layer.quantization.bits - 1)
    rows = (0, 0, 0, -len(integers) % multiple)
    tiles = tiles_of(F.pad((integers + middle).to(torch.uint8), rows))
    if tiles is None:
        return None
    group = numbered(len(integers), scale, group) if len(group) == 1 else group
    scale = 1 / scale.float() if zero is None else scale
    scale = scale.to(torch.bfloat16).flatten()[group]  # [out, blocks]
    zero = torch.zeros_like(scale) if zero is None else zero.float().flatten()[group]
    shift = ((8 - middle - zero) * scale.float()).to(torch.bfloat16)
    pairs = torch.stack([F.pad(x, rows).T for x in (scale, shift)], -1)
    return tiles, pairs.contiguous(), order


def tiles_of(codes: torch.Tensor) -> torch.Tensor | None:
    """Codes of 0 to 15 `[out, in]`, in uint8, as the device's kernel takes them, if it does."""
    inputs = codes.shape[1]
    if codes.is_cuda:
        depth = next((n for n in (8, 4, 2) if inputs % (16 * n) == 0), None)
        capable = torch.cuda.get_device_capability(codes.device) >= (8, 0)
        if depth is None or not capable or torch.version.hip is not None:
            return None
        return torch._convert_weight_to_int4pack(codes[:, ::2] << 4 | codes[:, 1::2], depth)
    tiles = torch._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    # Where they are read as they were not written they are of no use.
    return tiles if torch.equal(codes_of(tiles), codes.T) else None


def codes_of(tiles: torch.Tensor) -> torch.Tensor:
    """The CPU's tiles → codes `[in, out]`."""
    outputs, half = tiles.shape
    blocks = tiles.view(outputs // WIDTH, 2 * half, WIDTH // 2)
    return torch.cat((blocks & 15, blocks >> 4), -1).transpose(0, 1).reshape(2 * half, outputs)


def multiply_tiles(
    x: torch.Tensor, tiles: torch.Tensor, scales: torch.Tensor, outputs: int
) -> torch.Tensor:
    """`x` `[..., in]` times tiles → `[..., outputs]`."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    size = rows.shape[1] // len(scales)
    if tiles.is_cuda:
        y = torch._weight_int4pack_mm(rows, tiles, size, scales)
    elif few(rows.shape[0], 2 * FEW):
        y = torch._weight_int4pack_mm_for_cpu(rows, tiles, size, scales)
    else:
        y = rows @ dequantize_tiles(tiles, scales, rows.shape[1])
    return y[:, :outputs].reshape(*x.shape[:-1], outputs)


def dequantize_tiles(tiles: torch.Tensor, scales: torch.Tensor, inputs: int) -> torch.Tensor:
    """Tiles → weights `[in, out]`, with those of outputs that tiles have been filled up with."""
    if tiles.is_cuda:
        one = torch.eye(inputs, dtype=scales.dtype, device=scales.device)
        return torch._weight_int4pack_mm(one, tiles, inputs // len(scales), scales)
    groups, outputs, _ = scales.shape
    codes = (codes_of(tiles).view(torch.int8) - 8).view(groups, -1, outputs)
    scale, shift = scales.permute(2, 0, 1).contiguous()[:, :, None]
    return torch.addcmul(shift, codes.to(scale.dtype), scale).flatten(0, 1)
