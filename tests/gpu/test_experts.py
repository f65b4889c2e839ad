"""Grouped products on a GPU: every path agrees with the CPU, and none waits for the device."""

from __future__ import annotations

import pytest
import torch

from keras_hub_torch.backbones.layers.routing import Routes, choose_experts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


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
    exact = [tensor.double().requires_grad_() for tensor in (x, weight, p)]
    expected = layer(exact[0], exact[1], chosen, exact[2])
    wanted = [expected, *torch.autograd.grad(expected, exact, gradient.double())]
    there = [tensor.cuda() for tensor in (x, weight, p)]
    if transposed:
        there[1] = there[1].mT.contiguous().mT
    leaves = [tensor.requires_grad_() for tensor in there]
    chosen, gradient = chosen.cuda(), gradient.cuda()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = layer(leaves[0], leaves[1], chosen, leaves[2])
        found = [out, *torch.autograd.grad(out, leaves, gradient)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for mine, theirs in zip(found, wanted):
        error = (mine.double().cpu() - theirs).square().mean().sqrt()
        limit = 1e-3 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps  # TensorFloat-32
        assert error <= limit * theirs.square().mean().sqrt().clamp(min=1e-3)
