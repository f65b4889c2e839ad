"""Mixtures of experts (Shazeer et al., 2017, arXiv:1701.06538) that compute only what is routed.

The rows of all tokens are sorted by expert, so that each expert's rows stand together and a grouped
matrix product gives every group its own matrix. Nothing here waits for the device to tell how many
rows an expert has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from .dtypes import for_projections
from .initializers import Initializer, keras_fans
from .layer import Layer

# The matrices of torch's grouped kernel start and step by multiples of so many bytes.
ALIGNMENT = 16
# Fewest rows in a block: less does not fill a matrix unit.
BLOCK = 16


def expert_weights(shape: tuple[int, ...], initializer: Initializer) -> nn.Parameter:
    """The matrices of all experts, `[experts, in, out]`."""
    weight = nn.Parameter(torch.empty(shape))
    initializer(weight, *keras_fans(shape))
    return weight


def jitter(input: torch.Tensor, noise: float, training: bool) -> torch.Tensor:
    """In training each number times 1 ± `noise`, drawn evenly; may be overridden as dropout may."""
    if has_torch_function_unary(input):
        return handle_torch_function(jitter, (input,), input, noise, training)
    if not training or noise <= 0:
        return input
    return input * torch.empty_like(input).uniform_(1 - noise, 1 + noise)


def choose_experts(
    logits: torch.Tensor, top_k: int, normalize: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's most probable experts.

    Args:
        logits: `[tokens, experts]`.
        normalize: whether the probabilities of the chosen ones are made to sum to one.

    Returns:
        Probabilities, float32, and experts, both `[tokens, top_k]`.
    """
    probabilities, experts = logits.float().softmax(-1).topk(top_k)
    if normalize:
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities, experts


def load_balancing_loss(
    logits: torch.Tensor, top_k: int, padding_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """How unevenly a layer uses its experts, one if evenly (Fedus et al., 2021, arXiv:2101.03961).

    Args:
        logits: of the router, as a forward hook on it gets them, `[tokens, experts]`.
        padding_mask: `[batch, length]` or `[tokens]`, nonzero for real tokens.
    """
    probabilities = logits.float().softmax(-1)
    real = torch.ones_like(probabilities[:, :1])
    if padding_mask is not None:
        real = padding_mask.reshape(-1, 1).to(real.dtype)
    used = torch.zeros_like(probabilities).scatter(1, probabilities.topk(top_k).indices, 1 / top_k)
    count = real.sum().clamp(min=1e-9)
    share, probability = ((x * real).sum(0) / count for x in (used, probabilities))
    return logits.shape[-1] * (share * probability).sum()


class ExpertBank(Layer):
    """Holds the matrices of experts.

    Attributes:
        some: whether others are elsewhere; see `Routes`.
    """

    some = False

    def routes(self, chosen: torch.Tensor, num_experts: int) -> Routes:
        return Routes(chosen, num_experts, self.some)


class Routes:
    """The ways of tokens to their experts and back.

    A row is one token at one of its experts; rows are sorted by expert.

    Args:
        chosen: experts of each token, `[tokens, top_k]`.
        some: whether there may be experts from `num_experts` on, which are elsewhere: what their
            rows are counts nothing, their weights must be zeros.

    Attributes:
        experts: expert of each row, `[rows]`.
        ends: one past the last row of each expert, `[experts]`, int32.
    """

    def __init__(self, chosen: torch.Tensor, num_experts: int, some: bool = False) -> None:
        self.top_k = chosen.shape[1]
        self.some = some
        self.experts, self.order = chosen.flatten().sort(stable=True)
        every = torch.arange(num_experts, device=chosen.device)
        self.ends = torch.searchsorted(self.experts, every, right=True, out_int32=True)

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """`[tokens, dim]` → `[rows, dim]`."""
        return x.index_select(0, self.order // self.top_k)

    def product(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`[rows, in]` times each row's matrix of `[experts, in, out]` → `[rows, out]`.

        Args:
            bias: `[experts, out]`.
        """
        x = for_projections(x)
        if not self.some:
            y: torch.Tensor = grouped_product(x, weight.to(x.dtype), self.ends)
            return y if bias is None else y + bias.to(x.dtype).index_select(0, self.experts)
        # Products leave the rows of experts elsewhere as the memory was.
        elsewhere = (self.experts >= len(weight))[:, None]
        y = grouped_product(x.masked_fill(elsewhere, 0), weight.to(x.dtype), self.ends)
        y = y.masked_fill(elsewhere, 0)
        if bias is None:
            return y
        return y + bias.to(x.dtype).index_select(0, self.experts.clamp(max=len(weight) - 1))

    def tokens(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """`[rows, dim]`, weighted with `[tokens, top_k]` and summed → `[tokens, dim]`."""
        x = x.index_select(0, self.order.argsort()).unflatten(0, (-1, self.top_k))
        return (weights.to(x.dtype)[:, None] @ x)[:, 0]


@torch.library.custom_op("keras_hub_torch::grouped_product", mutates_args=())
def grouped_product(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Sorted rows `[rows, in]` times the matrices `[groups, in, out]` → `[rows, out]`.

    Args:
        ends: one past the last row of each group, `[groups]`, int32.
    """
    with torch.autocast(x.device.type, enabled=False):
        if not x.is_cuda:
            return multiply_segments(x, weight, ends)
        if has_kernel(x, weight):
            return torch._grouped_mm(x, weight, offs=ends)
        return multiply_blocks(x, weight, ends)


@torch.library.custom_op("keras_hub_torch::grouped_outer", mutates_args=())
def grouped_outer(x: torch.Tensor, y: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """The sum over each group's rows of `[rows, in]` times `[rows, out]` → `[groups, in, out]`."""
    with torch.autocast(x.device.type, enabled=False):
        if not x.is_cuda:
            return outer_segments(x, y, ends)
        if has_kernel(x, y):
            return torch._grouped_mm(x.mT, y, offs=ends)
        return outer_blocks(x, y, ends)


@grouped_product.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], weight.shape[2])


@grouped_outer.register_fake
def _(x: torch.Tensor, y: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return x.new_empty(ends.shape[0], x.shape[1], y.shape[1])


def _keep(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, weight, ends = ctx.saved_tensors
    of_x, of_weight, _ = ctx.needs_input_grad
    gradient = gradient.contiguous()
    return (
        grouped_product(gradient, weight.mT, ends) if of_x else None,
        grouped_outer(x, gradient, ends) if of_weight else None,
        None,
    )


grouped_product.register_autograd(_backward, setup_context=_keep)


def has_kernel(*tensors: torch.Tensor) -> bool:
    """Whether torch's grouped kernel takes them; its other paths wait for the device."""
    device = tensors[0].device
    return (
        hasattr(torch, "_grouped_mm")
        and all(tensor.dtype == torch.bfloat16 for tensor in tensors)
        and torch.cuda.get_device_capability(device)[0] in (9, 10)
        and all(map(_aligned, tensors))
    )


def _aligned(tensor: torch.Tensor) -> bool:
    steps = sorted(tensor.stride()[-2:])
    starts = (tensor.data_ptr(), *(step * tensor.itemsize for step in tensor.stride() if step != 1))
    return steps[0] == 1 and not any(start % ALIGNMENT for start in starts)


# On the CPU, where the sizes of the groups are known: one product for each group that has rows.


def multiply_segments(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    y = x.new_empty(x.shape[0], weight.shape[2])
    start = 0
    for group, end in enumerate(ends.tolist()):
        if start < end:
            torch.mm(x[start:end], weight[group], out=y[start:end])
        start = end
    return y


def outer_segments(x: torch.Tensor, y: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    z = x.new_zeros(ends.shape[0], x.shape[1], y.shape[1])
    start = 0
    for group, end in enumerate(ends.tolist()):
        if start < end:
            torch.mm(x[start:end].mT, y[start:end], out=z[group])
        start = end
    return z


# On other devices the host knows only how many blocks of rows of one group there are at most. Each
# of them is a product with a matrix that the device picks.


def multiply_blocks(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    groups, rows, seen = blocks(x.shape[0], ends)
    # The places of a block beyond its group's end fall on one more row.
    y = x.new_empty(x.shape[0] + 1, weight.shape[2])
    targets = rows.masked_fill(~seen, x.shape[0])
    for group, row, target in zip(groups.split(1), rows, targets):
        y.index_copy_(0, target, x[row] @ weight.index_select(0, group)[0])
    return y[:-1]


def outer_blocks(x: torch.Tensor, y: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    groups, rows, seen = blocks(x.shape[0], ends)
    z = x.new_zeros(ends.shape[0], x.shape[1], y.shape[1])
    for group, row, unseen in zip(groups.split(1), rows, ~seen[..., None]):
        z.index_add_(0, group, (x[row].mT @ y[row].masked_fill(unseen, 0))[None])
    return z


def blocks(num_rows: int, ends: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Blocks of rows that cover all groups.

    Returns:
        The group of each block, `[blocks]`; its rows, `[blocks, size]`; which of them count.
    """
    num_groups = ends.shape[0]
    size = max(BLOCK, -(-num_rows // num_groups))
    number = min(num_rows, num_rows // size + num_groups)
    starts = torch.cat((ends.new_zeros(1), ends[:-1]))
    numbers = (ends - starts + size - 1) // size
    last = numbers.cumsum(0)
    index = torch.arange(number, device=ends.device)
    groups = torch.searchsorted(last, index, right=True)
    some = groups < num_groups
    groups = groups.clamp(max=num_groups - 1)
    first = starts[groups] + (index - (last - numbers)[groups]) * size
    rows = first[:, None] + torch.arange(size, device=ends.device)
    seen = (rows < ends[groups][:, None]) & some[:, None]
    return groups, rows.clamp(max=max(num_rows - 1, 0)), seen
