"""Decoding with CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

import keras_hub_torch

from .test_cuda import SMALL, pytestmark  # noqa: F401


@pytest.mark.parametrize("name", ["gpt2", "gemma", "gemma2"])
@torch.no_grad()
def test_one_graph_for_all_tokens(name: str) -> None:
    cls, config = SMALL[name]
    model = getattr(keras_hub_torch.models, cls)(**config).cuda().eval()
    ids = torch.randint(0, 100, (3, 20), device="cuda")
    expected = model(ids)
    cache = model.make_cache(3, 32)
    model(ids[:, :5], cache=cache)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, fullgraph=True, mode="reduce-overhead")
    for i in range(5, 20):
        index = torch.tensor(i, device="cuda")
        out = compiled(ids[:, i : i + 1], cache=cache, cache_update_index=index)
        torch.testing.assert_close(out[:, 0], expected[:, i], rtol=1e-3, atol=1e-3)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["inductor"]["cudagraph_skips"]


def test_generate() -> None:
    cls, config = SMALL["gemma2"]
    model = getattr(keras_hub_torch.models, cls)(**config).cuda().eval()
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8]]
    expected = keras_hub_torch.generate(model, prompts, 24)["token_ids"]
    cache = model.make_cache(2, 24)
    for _ in range(2):
        found = keras_hub_torch.generate(model, prompts, 24, cache=cache, compile=True)
        assert torch.equal(found["token_ids"], expected)
