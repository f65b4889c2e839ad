from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import pytest
import torch

import keras_hub_torch
from keras_hub_torch import generate, samplers

from . import oracle
from .test_cache import FIRSTS, long_inputs, model_of

firsts = pytest.mark.parametrize("case", FIRSTS, ids=[case.id for case in FIRSTS])


def by_hand(model: Any, ids: torch.Tensor, max_length: int) -> torch.Tensor:
    """Greedy, without a cache, one row."""
    ids = ids[None]
    with torch.no_grad():
        while ids.shape[1] < max_length:
            logits = model.token_embedding(model(ids)[:, -1], reverse=True)
            ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    return ids[0]


@firsts
def test_greedy(case: oracle.Case) -> None:
    model, ids = model_of(case), long_inputs(case)[:, :4]
    expected = torch.stack([by_hand(model, row, 13) for row in ids])
    found = generate(model, ids, 13)
    assert torch.equal(found["token_ids"], expected)
    assert found["padding_mask"].all()


@firsts
def test_prompts_of_different_lengths(case: oracle.Case) -> None:
    model, ids = model_of(case), long_inputs(case)
    prompts = [ids[0, :5], ids[1, :2], ids[2, :3]]
    found = generate(model, [row.tolist() for row in prompts], 9)
    for row, prompt in enumerate(prompts):
        assert torch.equal(found["token_ids"][row], by_hand(model, prompt, 9))


@pytest.fixture
def gpt2() -> Any:
    return model_of(next(case for case in FIRSTS if case.cls == "GPT2Backbone"))


def test_ways_to_give_prompts(gpt2: Any) -> None:
    ids = torch.tensor([[3, 1, 2], [4, 5, 6]])
    expected = generate(gpt2, ids, 7)["token_ids"]
    mask = torch.ones_like(ids)
    for prompts in (ids.numpy(), ids.int(), ids.tolist(), {"token_ids": ids, "padding_mask": mask}):
        assert torch.equal(generate(gpt2, prompts, 7)["token_ids"], expected)
    assert torch.equal(generate(gpt2, [3, 1, 2], 7)["token_ids"], expected[:1])
    assert torch.equal(generate(gpt2, ids, 3)["token_ids"], ids)
    cache = gpt2.make_cache(2, 7)
    for _ in range(2):
        assert torch.equal(generate(gpt2, ids, 7, cache=cache)["token_ids"], expected)


def test_stop_tokens(gpt2: Any) -> None:
    ids = torch.tensor([[3, 1, 2], [4, 5, 6]])
    free = generate(gpt2, ids, 10)["token_ids"]
    stop = int(free[0, 5])
    found = generate(gpt2, ids, 10, stop_token_ids=[stop, 999], pad_token_id=9)
    for row in range(2):
        new = free[row, 3:].tolist()
        end = 3 + new.index(stop) + 1 if stop in new else 10
        assert found["token_ids"][row, :end].tolist() == free[row, :end].tolist()
        assert (found["token_ids"][row, end:] == 9).all()
        assert found["padding_mask"][row].tolist() == [True] * end + [False] * (10 - end)
    assert generate(gpt2, ids[:1], 10, stop_token_ids=stop)["padding_mask"].sum() <= 6


def test_training_mode_is_kept(gpt2: Any) -> None:
    gpt2.train()
    first = generate(gpt2, [1, 2], 8)["token_ids"]
    assert gpt2.training
    assert torch.equal(generate(gpt2, [1, 2], 8)["token_ids"], first)


# Those whose `generate` in KerasHub is not what their own backbone says without a cache: the
# positions it gives to tokens differ, or (RWKV-7, Gemma 3) it does not run on plain inputs.
OTHERWISE = {
    "GPTNeoXBackbone",
    "Gemma3Backbone",
    "Qwen3_5Backbone",
    "Qwen3_5MoeBackbone",
    "RWKV7Backbone",
}


@firsts
def test_equals_kerashub(case: oracle.Case, tmp_path: Path) -> None:
    """KerasHub without a cache, and KerasHub's own `generate`, its cache included."""
    backbone = oracle.keras_model(case)
    prompts = np.zeros((2, 12), "int32")
    prompts[:, :4] = long_inputs(case)[:2, :4].numpy()
    expected, mask = prompts.copy(), np.zeros((2, 12), "int32")
    mask[:, :4] = 1
    for end in range(4, 12):
        hidden = backbone({"token_ids": expected[:, :end], "padding_mask": np.ones((2, end))})
        if case.cls != "RWKV7Backbone":  # gives logits
            hidden = backbone.token_embedding(hidden, reverse=True)
        expected[:, end] = hidden[:, -1].argmax(-1).numpy()
    if case.cls not in OTHERWISE:
        task_class = getattr(keras_hub.models, case.cls.replace("Backbone", "CausalLM"))
        task = task_class(backbone=backbone, preprocessor=None)
        task.compile(sampler="greedy")
        inputs = {"token_ids": prompts, "padding_mask": mask}
        theirs = task.generate(inputs, stop_token_ids=None)
        np.testing.assert_array_equal(theirs["token_ids"], expected)
    oracle.preset_of(backbone, tmp_path)
    model = keras_hub_torch.models.Backbone.from_preset(tmp_path)
    found = generate(model, prompts[:, :4], 12)["token_ids"]
    np.testing.assert_array_equal(found.numpy(), expected)


def test_samplers() -> None:
    probabilities = torch.tensor([0.4, 0.3, 0.2, 0.1])
    logits = probabilities.log().expand(4000, 4)
    expected = {
        samplers.GreedySampler(): [1.0, 0, 0, 0],
        samplers.RandomSampler(seed=1): [0.4, 0.3, 0.2, 0.1],
        samplers.RandomSampler(temperature=0.5, seed=1): [16 / 30, 9 / 30, 4 / 30, 1 / 30],
        samplers.TopKSampler(k=2, seed=1): [4 / 7, 3 / 7, 0, 0],
        samplers.TopKSampler(k=9, seed=1): [0.4, 0.3, 0.2, 0.1],
        samplers.TopPSampler(seed=1): [1.0, 0, 0, 0],
        samplers.TopPSampler(p=0.45, seed=1): [4 / 7, 3 / 7, 0, 0],
        samplers.TopPSampler(p=0.8, k=2, seed=1): [4 / 7, 3 / 7, 0, 0],
        samplers.TopPSampler(p=1.0, seed=1): [0.4, 0.3, 0.2, 0.1],
    }
    for sampler, shares in expected.items():
        found = torch.bincount(sampler(logits), minlength=4) / 4000
        torch.testing.assert_close(found, torch.tensor(shares), atol=0.03, rtol=0)


def test_seeds() -> None:
    logits = torch.zeros(50, 100)
    first, second, other = (samplers.RandomSampler(seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first(logits), second(logits))
    assert not torch.equal(first(logits), other(logits))


def test_what_is_refused(gpt2: Any) -> None:
    with pytest.raises(ValueError, match=r"Unknown sampler 'beam'\. Known: greedy"):
        generate(gpt2, [1, 2], 5, "beam")
    with pytest.raises(ValueError, match="1 to max_length=2 tokens, not 3"):
        generate(gpt2, [1, 2, 3], 2)
    with pytest.raises(ValueError, match="1 to max_length=5 tokens, not 0"):
        generate(gpt2, [[1, 2, 3], []], 5)
    with pytest.raises(NotImplementedError, match="BertBackbone has no cache"):
        generate(keras_hub_torch.models.BertBackbone(5, 1, 1, 4, 4), [1], 5)
    for bad in (
        lambda: samplers.RandomSampler(temperature=0),
        lambda: samplers.TopKSampler(k=0),
        lambda: samplers.TopPSampler(p=1.5),
    ):
        with pytest.raises(ValueError, match="must be"):
            bad()


def test_compiled_step(gpt2: Any) -> None:
    ids = torch.tensor([[3, 1, 2], [4, 5, 6]])
    expected = generate(gpt2, ids, 12)["token_ids"]
    assert torch.equal(generate(gpt2, ids, 12, compile=True)["token_ids"], expected)


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, keras_hub_torch; assert 'keras_hub_torch.generation' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
