"""RWKV-7's recurrence in chunks and token by token, and the memory between calls."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from keras_hub_torch.backbones.layers.delta_rule import CHUNK, delta_rule
from keras_hub_torch.backbones.layers.recurrence import accumulate
from keras_hub_torch.models import RWKV7Backbone

from . import oracle
from .cases.rwkv7 import SMALL

FASTEST = -math.exp(-0.5)  # the logarithm of the strongest decay that a model can have
LENGTHS = [2, 15, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]


def draw(kind: str, length: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """r, log w, k, v, a, b, and a state."""
    generator = torch.Generator().manual_seed(length)
    r, w, k, v, a, b = torch.randn(6, 2, length, 3, 8, generator=generator, dtype=dtype)
    kk = a / a.norm(dim=-1, keepdim=True)
    log_w = {
        "any": -(-0.5 - torch.nn.functional.softplus(w)).exp(),
        "fastest": torch.full_like(w, FASTEST),
        "slowest": torch.full_like(w, -1e-12),
        "either": torch.where(w > 0, FASTEST, -1e-9).to(dtype),
        "one key": torch.full_like(w, FASTEST),
    }[kind]
    if kind == "one key":  # every token replaces the value of the same key
        kk = kk[:, :1].expand_as(kk)
        b = torch.full_like(b, 9)
    state = torch.randn(2, 3, 8, 8, generator=generator, dtype=dtype)
    return [r, log_w, k, v, -kk, kk * b.sigmoid(), state]


def by_token(*inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    *sequences, state = inputs
    outputs = []
    for r, log_w, k, v, a, b in zip(*(x.unbind(1) for x in sequences)):
        change = log_w.exp().diag_embed() + a[..., :, None] * b[..., None, :]
        state = state @ change + v[..., :, None] * k[..., None, :]
        outputs.append((state @ r[..., None])[..., 0])
    return torch.stack(outputs, dim=1), state


def gradients(rule: Any, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    sum(x.square().sum() for x in rule(*leaves)).backward()
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("kind", ["any", "fastest", "slowest", "either", "one key"])
@pytest.mark.parametrize("length", [1, *LENGTHS])
def test_chunks_equal_single_tokens(kind: str, length: int) -> None:
    exact = draw(kind, length, torch.float64)
    for mine, expected in zip(delta_rule(*exact), by_token(*exact)):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)
    single = [x.float() for x in exact]
    for mine, expected in zip(delta_rule(*single), by_token(*exact)):
        assert mine.dtype == torch.float32
        assert (mine - expected).abs().max() <= 5e-6 * expected.abs().max()
    for mine, expected in zip(gradients(delta_rule, single), gradients(by_token, exact)):
        assert (mine - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_the_operator_of_its_own() -> None:
    shapes = (1, 2, 3, 3), (1, 2, 4, 3, 3), (1, 2, 4, 3, 3)
    arguments = tuple(
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    assert torch.autograd.gradcheck(accumulate, arguments)
    assert torch.autograd.gradgradcheck(accumulate, arguments)
    torch.library.opcheck(accumulate, arguments)


def model_of(**changes: Any) -> Any:
    torch.manual_seed(1)
    model = RWKV7Backbone(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@torch.no_grad()
def test_long_sequences() -> None:
    """Token by token after a prompt, as far as anything is left of it."""
    model = model_of()
    ids = torch.randint(0, 41, (2, 150))
    expected = oracle.named(model(ids))
    cache = model.make_cache(2, 150)
    pieces = [model(ids[:, :70], cache=cache)]
    pieces += [
        model(ids[:, i : i + 1], cache=cache, cache_update_index=torch.tensor(i))
        for i in range(70, 150)
    ]
    oracle.assert_close(torch.cat(pieces, dim=1), expected)


@torch.no_grad()
def test_memory_is_allocated_once() -> None:
    """Its size is that of the model, not of the sequence, and it stays where it is."""
    model = model_of(dtype="bfloat16")
    short, long = (model.make_cache(2, length) for length in (3, 3000))
    for mine, other in zip(tensors(short), tensors(long)):
        assert mine.shape == other.shape
    assert {layer.matrix.dtype for layer in long.layers} == {torch.float32}
    assert {layer.time.token.dtype for layer in long.layers} == {torch.bfloat16}
    places = [tensor.data_ptr() for tensor in tensors(long)]
    ids = torch.randint(0, 41, (2, 20))
    model(ids[:, :9], cache=long)
    for i in range(9, 20):
        model(ids[:, i : i + 1], cache=long, cache_update_index=i)
    assert [tensor.data_ptr() for tensor in tensors(long)] == places
    assert not any(tensor.requires_grad for tensor in tensors(long))


def tensors(cache: Any) -> list[torch.Tensor]:
    return [
        tensor
        for layer in cache.layers
        for tensor in (
            layer.matrix,
            layer.time.token,
            layer.time.position,
            layer.channel.token,
            layer.channel.position,
        )
    ]


@torch.no_grad()
def test_a_tensor_of_zero_starts_anew() -> None:
    """Row by row, even where the new row begins with padding."""
    model = model_of()
    ids = torch.randint(0, 41, (3, 12))
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[1, :4] = False
    expected = model(ids, mask)
    cache = model.make_cache(3, 12)
    model(ids.flip(1)[:, :4], cache=cache)
    start = torch.tensor([0, 0, 0])
    for end in (4, 5, 12):
        piece = slice(int(start[0]), end)
        out = model(ids[:, piece], mask[:, piece], cache=cache, cache_update_index=start)
        seen = mask[:, piece]
        oracle.assert_close(out[seen], oracle.named(expected[:, piece][seen]))
        start = torch.full((3,), end)


def test_training_with_a_state() -> None:
    """What is kept has no history; gradients reach the tokens of the call."""
    model = model_of()
    ids = torch.randint(0, 41, (2, 40))
    cache = model.make_cache(2, 80)
    for start in (0, 40):
        model(ids, cache=cache, cache_update_index=start).square().mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gradients_are_finite(dtype: str) -> None:
    """Padding everywhere, extreme decays, and tokens that are all the same."""
    model = model_of(dtype=dtype)
    with torch.no_grad():
        for i, layer in enumerate(model.rwkv_layers):
            layer.RWKV_TIME_MIX.w0.fill_((-80, 80)[i])
    ids = torch.full((4, 70), 7)
    mask = torch.ones(4, 70, dtype=torch.bool)
    mask[1, :50] = mask[2, 3:60] = mask[3] = False
    out = model(ids, mask)
    assert out.isfinite().all()
    out.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size=10 is no multiple of head_size=4"):
        RWKV7Backbone(10, 4, 1, 5, 8)
