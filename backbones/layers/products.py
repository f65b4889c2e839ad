"""Products with weights of few bits, by kernels of torch's own wherever these are faster and no
less exact than a product with weights in floating point.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.nn import functional as F

from .integers import E4M3, AbsMaxQuantizer, through_float8, to_float8

# Whether the CPU's kernels that take weights of few bits, in bfloat16, are more than plain loops.
VECTORIZED = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") and (
    sys.platform != "win32"
)
# They read the weights again for every few rows: with more than so many rows it is faster to
# dequantize these.
FEW = 16
# Bytes of the vectors that they load at once.
ALIGNED = 32
# Torch 2.6 cannot tell exporting from compiling.
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def product(
    x: torch.Tensor,
    multiply: Callable[[torch.Tensor], torch.Tensor],
    dequantized: Callable[[torch.dtype], torch.Tensor],
) -> torch.Tensor:
    """`multiply(x)`, whose gradient is that of the product with `dequantized(dtype)`."""
    if torch.is_grad_enabled() and x.requires_grad:
        return cast(torch.Tensor, _Product.apply(x, multiply, dequantized))  # type: ignore[no-untyped-call]
    return multiply(x)


class _Product(torch.autograd.Function):
    """A product that keeps nothing for the backward pass: the weights are dequantized again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, multiply: Any, dequantized: Any) -> torch.Tensor:
        ctx.dequantized = dequantized
        return multiply(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0] @ ctx.dequantized(gradients[0].dtype), None, None


def few(rows: int, most: int) -> bool:
    """Whether there are at most so many; of a size that is open while compiling there are more."""
    if torch.compiler.is_compiling():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return statically_known_true(rows <= most)
    return rows <= most


def in_memory(*tensors: torch.Tensor, aligned: int = 1) -> bool:
    """Whether kernels find them there: not within `vmap`, say, nor as fakes.

    Args:
        aligned: of how many bytes their addresses are to be multiples.
    """
    try:
        return all(type(x) is torch.Tensor and x.data_ptr() % aligned == 0 for x in tensors)
    except RuntimeError:
        return False


def multiply_int8(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    activations: AbsMaxQuantizer | None,
) -> torch.Tensor:
    """`x` `[..., in]` times int8 `[out, in]`; both are integers where activations are quantized."""
    if activations is None:
        return weighted_product(x, weight) / scale
    integers, x_scale = activations(x)
    return integer_product(integers, weight).to(x.dtype) / (x_scale * scale)


def weighted_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`x` `[..., in]` times int8 `[out, in]`, in the dtype of `x`."""
    # The kernel takes 16 inputs at a time, to the end and beyond.
    fits = weight.is_contiguous() and weight.shape[1] % 16 == 0
    if VECTORIZED and fits and x.device.type == "cpu" and x.dtype == torch.bfloat16:
        if not torch.compiler.is_compiling():
            return multiply_few(x, weight)
        if not is_exporting():  # whose programs run without this package
            return cast(torch.Tensor, int8_product(x, weight))
    return F.linear(x, weight.to(x.dtype))


def multiply_few(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The same by the kernel, of few rows, and if it finds its operands where it can load them."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    # It loads whole vectors, and crashes on those that begin elsewhere.
    found = 0 < len(rows) <= FEW and in_memory(rows) and in_memory(weight, aligned=ALIGNED)
    if not found:
        return F.linear(x, weight.to(x.dtype))
    rows = rows if in_memory(rows, aligned=ALIGNED) else rows.clone()
    y = torch._weight_int8pack_mm(rows, weight, rows.new_ones(len(weight)))
    return y.view(*x.shape[:-1], -1)


@torch.library.custom_op("keras_hub_torch::int8_product", mutates_args=())
def int8_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`multiply_few`, which looks at numbers of rows and addresses, for compiled models."""
    return multiply_few(x, weight)


@int8_product.register_fake
def _(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def integer_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`x` `[..., in]`, of whole numbers in int8's range, times int8 `[out, in]`."""
    outputs, inputs = weight.shape
    cuda = x.device.type == "cuda" and inputs % 8 == 0 and outputs % 8 == 0
    if x.device.type != "cpu" and not cuda:
        # Sums of products of integers, exact in float32 up to a thousand of them.
        return F.linear(x.float(), weight.float())
    rows = x.to(torch.int8).reshape(-1, inputs)
    if cuda:  # which wants more than 16 rows
        rows = F.pad(rows, (0, 0, 0, -rows.shape[0] % 32))
    sums = torch._int_mm(rows, weight.T)
    return sums[: x.numel() // inputs].reshape(*x.shape[:-1], outputs)


def float8_product(
    x: torch.Tensor, weight: torch.Tensor, x_scale: torch.Tensor, weight_scale: torch.Tensor
) -> torch.Tensor:
    """`x` `[..., in]` times `[out, in]`, both as they come out of float8, without gradients."""
    if not multiplies_float8(x, weight):
        x, weight = through_float8(x, x_scale, E4M3), through_float8(weight, weight_scale, E4M3)
        return F.linear(x, weight)
    x_scale, weight_scale = x_scale.to(x.dtype), weight_scale.to(x.dtype)
    y = torch._scaled_mm(
        to_float8(x, x_scale, E4M3).reshape(-1, x.shape[-1]),
        to_float8(weight, weight_scale, E4M3).t(),
        x_scale.float(),
        weight_scale.float(),
        out_dtype=x.dtype,
    )
    return y.view(*x.shape[:-1], -1)


def multiplies_float8(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the device does, from Ada and Hopper on; its sums are less exact than float32."""
    return (
        x.is_cuda
        and torch.version.hip is None
        and x.dtype in (torch.bfloat16, torch.float16)
        and weight.shape[0] % 16 == weight.shape[1] % 16 == 0
        and torch.cuda.get_device_capability(x.device) >= (8, 9)
    )


class Through(torch.autograd.Function):
    """Values as they come out of float8, whose gradient is left alone."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return through_float8(x, scale, E4M3)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0], None


class ChangedBackward(torch.autograd.Function):
    """Values as they are, whose gradient is changed."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, change: Any) -> torch.Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return ctx.change(gradients[0]), None
