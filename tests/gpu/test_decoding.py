"""Decoding with CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

import keras_hub_torch

from .precision import COMPILE, DEVICE, assert_as_accurate, exact, needs_cuda
from .test_cuda import SMALL


@pytest.mark.parametrize("name", ["gpt2", "gemma", "gemma2"])
@torch.no_grad()
def test_one_graph_for_all_tokens(name: str) -> None:
    cls, config = SMALL[name]
    model = getattr(keras_hub_torch.models, cls)(**config).to(DEVICE).eval()
    ids = torch.randint(0, 100, (3, 20), device=DEVICE)
    cache = model.make_cache(3, 32)
    model(ids[:, :5], cache=cache)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, fullgraph=True, **COMPILE)
    found = []
    for i in range(5, 20):
        index = torch.tensor(i, device=DEVICE)
        out = compiled(ids[:, i : i + 1], cache=cache, cache_update_index=index)
        found.append(out[:, 0].clone())
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["inductor"]["cudagraph_skips"]
    whole, expected = model(ids)[:, 5:], exact(model)(ids.cpu())[:, 5:]
    assert_as_accurate([torch.stack(found, 1)], [whole], [expected])


@needs_cuda
def test_generate() -> None:
    cls, config = SMALL["gemma2"]
    model = getattr(keras_hub_torch.models, cls)(**config).cuda().eval()
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8]]
    expected = keras_hub_torch.generate(model, prompts, 24)["token_ids"]
    cache = model.make_cache(2, 24)
    for _ in range(2):
        found = keras_hub_torch.generate(model, prompts, 24, cache=cache, compile=True)
        assert torch.equal(found["token_ids"], expected)
