"""Mixtures of experts: the grouped products against a dense evaluation of all experts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from keras_hub.src.models.mixtral import mixtral_decoder

import keras_hub_torch
from keras_hub_torch.backbones.layers import routing
from keras_hub_torch.backbones.layers.routing import Routes, choose_experts, load_balancing_loss

SIZES = [(37, 5), (1, 8), (200, 3), (4, 128), (9, 1), (0, 4)]
sizes = pytest.mark.parametrize(("rows", "groups"), SIZES)


def groups_of(rows: int, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorted group of each row, some groups without one; and where the groups end."""
    of_rows = (torch.rand(rows) ** 2 * groups).long().sort().values
    return of_rows, torch.tensor([(of_rows <= i).sum() for i in range(groups)], dtype=torch.int32)


def dense(x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor, p: torch.Tensor) -> Any:
    """All experts on all tokens, most of them with the weight zero."""
    full = torch.zeros(len(x), len(weight), dtype=p.dtype).scatter(1, chosen, p)
    return torch.einsum("ti,eio,te->to", x, weight, full)


def routed(x: torch.Tensor, weight: torch.Tensor, chosen: torch.Tensor, p: torch.Tensor) -> Any:
    routes = Routes(chosen, len(weight))
    return routes.tokens(routes.product(routes.rows(x), weight), p)


def example(tokens: int, top_k: int = 2, experts: int = 5) -> tuple[torch.Tensor, ...]:
    x, weight = torch.randn(tokens, 6), torch.randn(experts, 6, 7)
    return x, weight, *reversed(choose_experts(torch.randn(tokens, experts), top_k, False))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@sizes
def test_products(rows: int, groups: int) -> None:
    of_rows, ends = groups_of(rows, groups)
    x, weight = torch.randn(rows, 6), torch.randn(groups, 6, 7)
    expected = torch.einsum("ri,rio->ro", x, weight[of_rows])
    for product in (routing.multiply_segments, routing.multiply_blocks):
        torch.testing.assert_close(product(x, weight, ends), expected)
    transposed = weight.mT.contiguous().mT
    torch.testing.assert_close(routing.grouped_product(x, transposed, ends), expected)


@sizes
def test_sums_of_outer_products(rows: int, groups: int) -> None:
    of_rows, ends = groups_of(rows, groups)
    x, y = torch.randn(rows, 6), torch.randn(rows, 7)
    members = torch.nn.functional.one_hot(of_rows, groups).float()
    expected = torch.einsum("ri,ro,rg->gio", x, y, members)
    for outer in (routing.outer_segments, routing.outer_blocks):
        torch.testing.assert_close(outer(x, y, ends), expected)


@pytest.mark.parametrize(("top_k", "experts"), [(2, 5), (1, 3), (4, 4), (1, 1)])
def test_gradients(top_k: int, experts: int) -> None:
    x, weight, chosen, p = example(11, top_k, experts)
    leaves = [tensor.double().requires_grad_() for tensor in (x, weight, p)]

    def both(function: Any) -> Any:
        x, weight, p = leaves
        out = function(x, weight, chosen, p)
        return out, *torch.autograd.grad(out.sin().sum(), leaves)

    for mine, expected in zip(both(routed), both(dense)):
        torch.testing.assert_close(mine, expected)
    assert torch.autograd.gradcheck(lambda x, w, p: routed(x, w, chosen, p), leaves)


def test_operators() -> None:
    ends = groups_of(11, 4)[1]
    x = torch.randn(11, 6, requires_grad=True)
    torch.library.opcheck(
        routing.grouped_product, (x, torch.randn(4, 6, 7, requires_grad=True), ends)
    )
    torch.library.opcheck(routing.grouped_outer, (x.detach(), torch.randn(11, 7), ends))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes(dtype: torch.dtype) -> None:
    x, weight, chosen, p = example(50)
    exact = dense(x, weight, chosen, p)
    weight = weight.requires_grad_()
    out = routed(x.to(dtype), weight, chosen, p)
    assert out.dtype == dtype
    assert (out - exact).square().mean() < (torch.finfo(dtype).eps * exact).square().mean()
    out.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_only_routed_experts_are_computed() -> None:
    x, weight, chosen, p = example(3, 2, 40)
    unused = torch.tensor([i not in chosen for i in range(40)])
    weight[unused] = torch.nan
    weight.requires_grad_()
    out = routed(x, weight, chosen, p)
    assert out.isfinite().all()
    out.sum().backward()
    assert weight.grad is not None
    assert not weight.grad[unused].any()
    assert weight.grad[~unused].any(dim=(1, 2)).all()


def test_frozen_experts_cost_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(routing, "grouped_outer")
    x, weight, chosen, p = example(7)
    routed(x.requires_grad_(), weight, chosen, p).sum().backward()
    assert x.grad is not None


def test_compiled_training() -> None:
    compiled = torch.compile(routed, fullgraph=True, dynamic=True)
    for tokens in (5, 9, 12):
        x, weight, chosen, p = example(tokens)
        leaves = [tensor.requires_grad_() for tensor in (x, weight, p)]
        mine, expected = (f(x, weight, chosen, p) for f in (compiled, dense))
        torch.testing.assert_close(mine, expected)
        mine, expected = (torch.autograd.grad(y.sin().sum(), leaves) for y in (mine, expected))
        torch.testing.assert_close(mine, expected)


def test_jitter() -> None:
    torch.manual_seed(0)
    config = {"vocabulary_size": 9, "num_layers": 1, "num_query_heads": 1, "hidden_dim": 8}
    config |= {"intermediate_dim": 4, "num_key_value_heads": 1, "num_experts": 3}
    model = keras_hub_torch.models.MixtralBackbone(**config, router_jitter_noise=0.5)
    ids = torch.arange(7)[None]
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


@pytest.mark.parametrize("masked", [False, True])
def test_load_balancing_loss(masked: bool) -> None:
    logits = torch.randn(12, 5)
    mask = torch.ones(3, 4, dtype=torch.int32)
    mask[1, 2:] = 0
    given = mask if masked else None
    theirs = mixtral_decoder.compute_load_balancing_loss(logits, 5, 2, given)
    np.testing.assert_allclose(load_balancing_loss(logits, 2, given), theirs, rtol=1e-6)
    even = torch.eye(5).repeat(3, 1) * 50
    assert abs(load_balancing_loss(even, 1) - 1) < 1e-5
