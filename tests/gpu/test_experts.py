"""Grouped products on a GPU: every path agrees with the CPU, and none waits for the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from keras_hub_torch.backbones.layers.routing import Routes, choose_experts

from .precision import DEVICE, assert_as_accurate


def layer(
    x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor, p: torch.Tensor
) -> torch.Tensor:
    routes = Routes(chosen, len(weight))
    return routes.tokens(routes.product(routes.rows(x), weight), p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 96), (6, 7)])  # the kernel wants round ones
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("tokens", "experts"), [(1, 8), (300, 5), (40, 128)])
def test_as_on_the_cpu(
    dtype: torch.dtype, inputs: int, outputs: int, transposed: bool, tokens: int, experts: int
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(experts, inputs, outputs).to(dtype)
    x = torch.randn(tokens, inputs).to(dtype)
    p, chosen = choose_experts(torch.randn(tokens, experts), 2, True)
    gradient = torch.randn(tokens, outputs).to(dtype)
    given = (x, weight, p)
    wanted = with_gradients([tensor.double() for tensor in given], chosen, gradient.double())
    on_cpu = with_gradients(list(given), chosen, gradient)
    there = [tensor.to(DEVICE) for tensor in given]
    if transposed:
        there[1] = there[1].mT.contiguous().mT
    chosen, gradient = chosen.to(DEVICE), gradient.to(DEVICE)
    with no_waiting():
        found = with_gradients(there, chosen, gradient)
    assert_as_accurate(found, on_cpu, wanted)


def with_gradients(
    given: list[torch.Tensor], chosen: torch.Tensor, gradient: torch.Tensor
) -> list[torch.Tensor]:
    """The layer's output, and the gradients of tokens, matrices and probabilities."""
    leaves = [tensor.detach().requires_grad_() for tensor in given]
    out = layer(leaves[0], leaves[1], chosen, leaves[2])
    return [out, *torch.autograd.grad(out, leaves, gradient)]


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever waits for the device is an error."""
    if DEVICE.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
