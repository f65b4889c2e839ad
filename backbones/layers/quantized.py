"""Layers with weights of few bits, as Keras's `quantize` leaves them.

- `int8`: `weight = round(w · scale)`, a scale for each output. Inputs are quantized on the fly, per
  row, and the product is one of integers.
- `int4`: the same in four bits, or `w = (weight - zero) · scale` for each group of inputs.
- `gptq`, `awq`: such groups in other bits, calibrated on data; AWQ has scales of inputs besides.
- `float8`: inputs and weights go through float8, by scales that follow what training has seen.

Integers do not train, but gradients flow through to what comes before. No layer keeps its weights
in floating point beyond a call, not for the backward pass either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from .core import (
    EinsumDense,
    Embedding,
    PositionEmbedding,
    Projection,
    ReversibleEmbedding,
)
from .division import Vocabulary
from .dtypes import Quantization
from .integers import (
    E4M3,
    E5M2,
    INT4,
    AbsMaxQuantizer,
    dequantize_blocks,
    dequantize_groups,
    observe,
    pack_int4,
    quantize_groups,
    through_float8,
    unpack_int4,
)
from .layer import Layer, computed_again
from .products import ChangedBackward, Through, float8_product, multiply_int8, product


class Quantized(Layer):
    """What all quantized layers share.

    Attributes:
        quantization: how it is.
        activations: quantizes what is multiplied by the weights, if anything does.
        weights: quantizes the weights, where the mode leaves that open.
        in_order: whether each so many inputs are a group.
    """

    quantization: Quantization
    activations: AbsMaxQuantizer | None
    weights: AbsMaxQuantizer
    wrapped_class: type[nn.Module]
    in_order: bool = True

    @classmethod
    def convert(
        cls,
        layer: nn.Module,
        quantization: Quantization,
        activations: AbsMaxQuantizer | None = None,
        weights: AbsMaxQuantizer | None = None,
    ) -> Quantized:
        """A layer that takes over everything but the weights, and is to be filled with others."""
        converted = cls.__new__(cls)
        converted.__dict__.update(layer.__dict__)
        converted.__dict__["_parameters"] = dict(layer._parameters)
        converted.__dict__["_buffers"] = dict(layer._buffers)
        converted.__dict__["wrapped_class"] = type(layer)
        converted.quantization = quantization
        converted.activations = activations
        default = AbsMaxQuantizer(value_range=INT4 if quantization.mode == "int4" else (-127, 127))
        converted.weights = weights or default
        weight = cast(torch.Tensor, layer.weight)
        with torch.device(weight.device):
            converted.make()
        for name, buffer in converted._buffers.items():
            if buffer is not None and buffer.is_floating_point() and name not in cls.float32:
                converted._buffers[name] = buffer.to(weight.dtype)
        return converted

    def make(self) -> None:
        """Weights of this form in place of those that the layer had."""
        raise NotImplementedError

    def hold(self, name: str, tensor: torch.Tensor) -> None:
        """A buffer, in place of a parameter if there is one."""
        self._parameters.pop(name, None)
        self.register_buffer(name, tensor)

    def quantize(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights in floating point → what this layer holds in their place.

        Raises:
            NotImplementedError: it depends on data, too.
        """
        raise NotImplementedError(f"{self.quantization.mode} needs data.")

    @torch.no_grad()
    def fill(self, layer: nn.Module) -> None:
        """Take over the weights of a layer in floating point."""
        weights = dict(layer.named_parameters(recurse=False))
        for name, value in self.quantize(weights).items():
            getattr(self, name).copy_(value)

    def note_groups(self, scale: torch.Tensor | None) -> None:
        """Look whether groups are in order.

        Raises:
            ValueError: an input is in none of the groups that `scale` `[..., groups]` has.
        """
        index = self._buffers.get("g_idx")
        if index is None or scale is None or index.is_meta:
            return
        if not bool(((index >= 0) & (index < scale.shape[-1])).all()):
            raise ValueError(f"g_idx must be at least 0 and below {scale.shape[-1]}.")
        size = self.quantization.group_size
        places = torch.arange(len(index), device=index.device)
        ordered = torch.zeros_like(places) if size == -1 else places // size
        self.in_order = torch.equal(index.long(), ordered)

    def grouped(
        self, integers: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """Integers `[..., inputs]` of groups → what they stand for."""
        if not self.in_order:
            return dequantize_groups(integers, scale, zero, index)
        size = self.quantization.group_size
        return dequantize_blocks(integers, scale, zero, len(index) if size == -1 else size)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.loaded()


class QuantizedDense(Quantized, Projection):
    """A projection with integers for weights; no `nn.Linear`, since it computes something else."""

    kernel_scale: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or self.kernel_scale.dtype
        y = product(x.to(dtype), self.multiply, self.dequantized)
        return y if self.bias is None else y + self.bias.to(dtype)

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        if self.activations is None:
            return F.linear(x, self.dequantized(x.dtype))
        x, scale = self.activations(x)
        return F.linear(x, self.dequantized(x.dtype)) / scale

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights `[out, in]`."""
        raise NotImplementedError


class Int8Dense(QuantizedDense):
    """`weight` `[out, in]` in int8, `kernel_scale` `[out]`."""

    def make(self) -> None:
        shape = self.out_features, self.in_features
        self.hold("weight", torch.zeros(shape, dtype=torch.int8))
        self.hold("kernel_scale", torch.ones(self.out_features))

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        return multiply_int8(x, self.weight, self.kernel_scale.to(x.dtype), self.activations)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        return self.weight.to(dtype) / self.kernel_scale.to(dtype)[:, None]

    def divided(self, axis: int, count: int) -> dict[str, int]:
        return super().divided(axis, count) | ({} if axis else {"kernel_scale": 0})

    def quantize(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        integers, scale = self.weights(weights["weight"].float())
        return {"weight": integers.to(torch.int8), "kernel_scale": scale[:, 0]}


class PackedDense(QuantizedDense):
    """Keras quantizes a matrix `[rows, columns]` that a kernel is reshaped to; where the kernel has
    heads before the inputs, that mixes both.

    `weight` `[columns, rows]`, in four bits `[ceil(columns / 2), rows]`.

    Attributes:
        plain: whether that matrix is `[in, out]`.
    """

    g_idx: torch.Tensor | None
    kernel_zero: torch.Tensor | None
    float32 = frozenset(("g_idx",))
    rows: int
    columns: int
    plain: bool

    def make_matrix(self, rows: int, dtype: torch.dtype) -> int:
        """Returns: the number of groups."""
        self.rows, self.columns = rows, math.prod(self.kernel_shape) // rows
        leading = self.kernel_inputs == tuple(range(len(self.kernel_inputs)))
        self.plain = leading and rows == self.in_features
        packed = -(-self.columns // 2) if self.quantization.bits == 4 else self.columns
        self.hold("weight", torch.zeros(packed, rows, dtype=dtype))
        size = self.quantization.group_size
        return 1 if size == -1 else -(-rows // size)

    def loaded(self) -> None:
        super().loaded()
        self.note_groups(self.kernel_scale)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        matrix = self.matrix(dtype)
        if self.plain:
            return matrix
        order, inputs = self._axes(), len(self.kernel_inputs)
        kernel = matrix.T.reshape(-1, *self.kernel_shape[1:])  # a process may have some of it
        return kernel.permute(order).flatten(-inputs).flatten(0, -1 - inputs)

    def matrix(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights `[columns, rows]`."""
        weight, scale = self.weight, self.kernel_scale.to(dtype)
        if self.quantization.bits == 4:
            # There may be some of them only.
            weight = unpack_int4(weight, min(self.columns, 2 * len(weight)), 0)
        if self.kernel_zero is None or self.g_idx is None:
            return weight / scale[:, None]
        return self.grouped(weight, scale, self.kernel_zero, self.g_idx)

    def divided(self, axis: int, count: int) -> dict[str, int]:
        places = {} if axis else {"bias": 0}
        first = self._axes()[len(self.kernel_shape) - len(self.kernel_inputs) if axis else 0]
        size = self.kernel_shape[first]
        if self.plain and not axis:
            if self.quantization.bits == 4 and self.columns % (2 * count):
                raise ValueError(f"{self.columns} outputs, two in a byte")
            return {"weight": 0, "kernel_scale": 0, "kernel_zero": 0, **places}
        if not self.plain and (first or size % count or self.rows % count):
            raise ValueError(
                f"a kernel {self.kernel_shape} that is quantized as {self.rows} x {self.columns}"
            )
        return {"weight": 1, "awq_scales": 0, **places}


class Int4Dense(PackedDense):
    """Two outputs in a byte, `kernel_scale` `[columns]`; with groups `kernel_scale` and
    `kernel_zero` `[columns, groups]`, `g_idx` `[rows]` says which group an input is in.
    """

    def make(self) -> None:
        groups, size = self.make_matrix(self.in_features, torch.int8), self.quantization.group_size
        if size == -1:
            self.hold("kernel_scale", torch.ones(self.columns))
            self.kernel_zero = self.g_idx = None
            return
        self.hold("kernel_scale", torch.ones(self.columns, groups))
        self.hold("kernel_zero", torch.zeros(self.columns, groups, dtype=torch.int8))
        self.hold("g_idx", (torch.arange(self.rows) // size).float())

    def quantize(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kernel = self.to_kernel(weights["weight"])
        matrix, size = kernel.reshape(self.rows, self.columns).T, self.quantization.group_size
        if size == -1:
            # Keras takes a quantizer of one's own for Dense alone.
            is_einsum = issubclass(self.wrapped_class, EinsumDense)
            own = AbsMaxQuantizer(None, INT4) if is_einsum else self.weights
            integers, scale = own(matrix.float())
            found = {"kernel_scale": scale[:, 0]}
        else:
            integers, scale, zero = quantize_groups(matrix, size)
            found = {"kernel_scale": scale, "kernel_zero": zero.to(torch.int8)}
        return {"weight": pack_int4(integers.to(torch.int8), 0), **found}


class GPTQDense(PackedDense):
    """`weight` in uint8; `kernel_scale`, `kernel_zero` `[columns, groups]`; `g_idx` `[rows]`."""

    def make(self) -> None:
        shape = self.kernel_shape
        if len(shape) == 2:
            rows = shape[0]
        elif len(shape) == 3:  # by which axis is the longest, the first one or another
            rows = shape[0] if shape.index(max(shape)) == 0 else shape[0] * shape[1]
        else:
            raise NotImplementedError(
                f"{self.quantization.mode} takes kernels of two or three axes, not {shape}."
            )
        groups = self.make_matrix(rows, torch.uint8)
        self.hold("kernel_scale", torch.ones(self.columns, groups))
        self.hold("kernel_zero", torch.zeros(self.columns, groups, dtype=torch.uint8))
        self.hold("g_idx", torch.zeros(rows))
        self.in_order = False


class AWQDense(GPTQDense):
    """As `GPTQDense`, of weights that `awq_scales` `[rows]` have been multiplied into."""

    awq_scales: torch.Tensor

    def make(self) -> None:
        super().make()
        index = self._buffers.pop("g_idx")
        self.hold("awq_scales", torch.ones(self.rows))
        self.hold("g_idx", cast(torch.Tensor, index))

    def matrix(self, dtype: torch.dtype) -> torch.Tensor:
        return super().matrix(dtype) / self.awq_scales.to(dtype)


class Float8Dense(Quantized, Projection):
    """A projection in float8, with delayed scaling (Micikevicius et al., 2022, arXiv:2209.05433).

    In training each scale is that of the largest value of the last steps, and the gradient of the
    output goes through float8, too.

    Attributes:
        seen: what all processes have seen of a tensor of which each has a part.
    """

    seen: Callable[[torch.Tensor], torch.Tensor] | None = None

    inputs_scale: torch.Tensor
    inputs_amax_history: torch.Tensor
    kernel_scale: torch.Tensor
    kernel_amax_history: torch.Tensor
    outputs_grad_scale: torch.Tensor
    outputs_grad_amax_history: torch.Tensor
    float32 = frozenset(
        f"{of}_{what}"
        for of in ("inputs", "kernel", "outputs_grad")
        for what in ("scale", "amax_history")
    )

    def make(self) -> None:
        for of in ("inputs", "kernel", "outputs_grad"):
            self.hold(f"{of}_scale", torch.ones(()))
            length = self.quantization.amax_history_length
            self.hold(f"{of}_amax_history", torch.zeros(length))

    def quantize(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or self.weight.dtype
        x, weight = x.to(dtype), self.weight.to(dtype)
        learns, scales = torch.is_grad_enabled(), (self.inputs_scale, self.kernel_scale)
        if learns:
            through = [Through.apply(*pair) for pair in zip((x, weight), scales)]  # type: ignore[no-untyped-call]
            y = F.linear(*through)
        else:
            y = float8_product(x, weight, *scales)
        if self.training and (torch.compiler.is_compiling() or not computed_again()):
            self.observe(x, self.inputs_scale, self.inputs_amax_history, E4M3)
            self.observe(weight, self.kernel_scale, self.kernel_amax_history, E4M3)
        y = ChangedBackward.apply(y, self.gradient) if learns else y  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.cast_bias(self.bias, dtype)

    def cast_bias(self, bias: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        # Keras rounds it, for the sake of fusion on TensorFlow.
        return bias.to(torch.bfloat16 if dtype == torch.float32 else dtype).to(dtype)

    def gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        rounded = through_float8(gradient, self.outputs_grad_scale, E5M2)
        if self.training:
            self.observe(gradient, self.outputs_grad_scale, self.outputs_grad_amax_history, E5M2)
        return rounded

    @torch.no_grad()
    def observe(
        self, x: torch.Tensor, scale: torch.Tensor, history: torch.Tensor, dtype: torch.dtype
    ) -> None:
        observe(x if self.seen is None else self.seen(x), scale, history, dtype)


ROWS = Vocabulary(
    weights={
        **{"weight": 0, "embeddings_scale": 0, "embeddings_zero": 0, "reverse_embeddings": 1},
        **{"reverse_embeddings_scale": -1, "reverse_embeddings_zero": -1},
    }
)


class QuantizedTable(Quantized):
    """`weight` `[input_dim, dim]`, in int4 two columns to a byte, and `embeddings_scale`
    `[input_dim]`; with groups it and `embeddings_zero` are `[input_dim, groups]`, and `g_idx`
    `[dim]` says which group a column is in.
    """

    compute_dtype: torch.dtype | None
    weight: torch.Tensor
    columns: int
    embeddings_scale: torch.Tensor
    embeddings_zero: torch.Tensor | None
    g_idx: torch.Tensor | None
    float32 = frozenset(("g_idx",))

    def make(self) -> None:
        vocabulary, dim = self.weight.shape
        self.columns, size = dim, self.quantization.group_size
        stored = -(-dim // 2) if self.quantization.bits == 4 else dim
        self.hold("weight", torch.zeros(vocabulary, stored, dtype=torch.int8))
        if size == -1:
            self.hold("embeddings_scale", torch.ones(vocabulary))
            self.embeddings_zero = self.g_idx = None
            return
        groups = -(-dim // size)
        self.hold("embeddings_scale", torch.ones(vocabulary, groups))
        self.hold("embeddings_zero", torch.zeros(vocabulary, groups, dtype=torch.int8))
        self.hold("g_idx", (torch.arange(dim) // size).float())

    def loaded(self) -> None:
        super().loaded()
        self.note_groups(self.embeddings_scale)

    def rows(self, index: slice | torch.Tensor) -> torch.Tensor:
        """Those of an index, in floating point."""
        scale = self.embeddings_scale[index]
        zero = self.embeddings_zero
        return self.read(
            self.weight[index],
            scale.to(self.compute_dtype or scale.dtype),
            None if zero is None else zero[index],
        )

    def read(
        self, integers: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None
    ) -> torch.Tensor:
        """Rows `[..., dim]`, of those in memory."""
        if self.quantization.bits == 4:
            integers = unpack_int4(integers, self.columns, -1)
        if zero is None or self.g_idx is None:
            return integers / scale[..., None]
        return self.grouped(integers, scale, zero, self.g_idx)

    def quantize(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.quantize_table("", weights["weight"], "weight")

    def quantize_table(
        self, prefix: str, table: torch.Tensor, name: str
    ) -> dict[str, torch.Tensor]:
        """`table` `[input_dim, dim]` as what it is stored as."""
        size, found = self.quantization.group_size, {}
        if size == -1:
            integers, scale = self.weights(table.float())
            scale = scale[..., 0]
        else:
            integers, scale, zero = quantize_groups(table, size)
            found = {f"{prefix}embeddings_zero": zero}
        integers = integers.to(torch.int8)
        packed = pack_int4(integers, -1) if self.quantization.bits == 4 else integers
        return {name: packed, f"{prefix}embeddings_scale": scale, **found}


class QuantizedEmbedding(QuantizedTable, Embedding):
    """Token ids → vectors, of a `QuantizedTable`."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.rows(ids)


class QuantizedPositionEmbedding(QuantizedTable, PositionEmbedding):
    """Positions → vectors, of a `QuantizedTable`."""


class QuantizedReversibleEmbedding(QuantizedEmbedding, ReversibleEmbedding):
    """The same in both directions; what is not tied has `reverse_embeddings` `[dim, input_dim]`,
    packed along `dim`, with scales (and zeros) of its own, `[groups, input_dim]`.
    """

    division = ROWS

    reverse_embeddings_scale: torch.Tensor
    reverse_embeddings_zero: torch.Tensor | None

    def make(self) -> None:
        super().make()
        if self.tie_weights:
            return
        self.hold("reverse_embeddings", torch.zeros_like(self.weight.t()))
        self.hold("reverse_embeddings_scale", torch.ones_like(self.embeddings_scale.t()))
        if self.embeddings_zero is None:
            self.reverse_embeddings_zero = None
        else:  # which Keras keeps in floating point
            self.hold("reverse_embeddings_zero", torch.zeros_like(self.embeddings_scale.t()))

    def forward(self, inputs: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        if not reverse:
            return QuantizedEmbedding.forward(self, inputs)
        return ReversibleEmbedding.forward(self, inputs, reverse=True)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or self.embeddings_scale.dtype
        return product(x.to(dtype), self.multiply, self.dequantized)

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        integers, scale, _ = self.reverse_table(x.dtype)
        if self.quantization.mode == "int8":
            return multiply_int8(x, integers, scale, self.activations)
        table = self.dequantized(x.dtype)
        if self.activations is None:
            return F.linear(x, table)
        x, scale = self.activations(x)
        return F.linear(x, table) / scale

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """The rows that logits are products with, `[input_dim, dim]`."""
        return self.read(*self.reverse_table(dtype))

    def reverse_table(
        self, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if self.tie_weights:
            return self.weight, self.embeddings_scale.to(dtype), self.embeddings_zero
        zero = self.reverse_embeddings_zero
        scale = self.reverse_embeddings_scale.to(dtype)
        return self.reverse_embeddings.t(), scale.t(), None if zero is None else zero.t()

    def quantize(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = super().quantize(weights)
        if not self.tie_weights:
            table = weights["reverse_embeddings"].t()
            reverse = self.quantize_table("reverse_", table, "reverse_embeddings")
            found |= {name: tensor.t() for name, tensor in reverse.items()}
        return found
