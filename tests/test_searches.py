"""Beam and contrastive search find what KerasHub's samplers find, token for token."""

from __future__ import annotations

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
LENGTH = 11


def theirs(backbone: Any, sampler: Any, ids: np.ndarray, **kwargs: Any) -> Any:
    """KerasHub's sampler around a backbone without a cache: ids `[batch, prompt]` → its result."""
    logits_only = type(backbone).__name__ == "RWKV7Backbone"

    def states_of(token_ids: Any) -> torch.Tensor:
        return backbone(oracle.text_inputs(backbone, token_ids))

    def next(prompt: Any, cache: Any, index: Any) -> tuple[Any, Any, Any]:
        hidden = states_of(prompt[:, : int(index)])[:, -1]
        return (
            hidden if logits_only else oracle.token_embedding(backbone)(hidden, reverse=True),
            hidden,
            (),
        )

    prompt = np.zeros((len(ids), LENGTH), "int32")
    mask = np.zeros(prompt.shape, bool)
    prompt[:, : ids.shape[1]], mask[:, : ids.shape[1]] = ids, True
    prompt, mask = torch.from_numpy(prompt), torch.from_numpy(mask)
    with torch.no_grad():
        return sampler(
            next=next,
            prompt=prompt,
            cache=None,
            index=ids.shape[1],
            mask=mask,
            hidden_states=states_of(prompt),
            **kwargs,
        )


@firsts
def test_equals_kerashub(case: oracle.Case, tmp_path: Path) -> None:
    backbone = oracle.keras_model(case)
    ids = long_inputs(case)[:2, :4].numpy()
    oracle.preset_of(backbone, tmp_path)
    model = keras_hub_torch.models.Backbone.from_preset(tmp_path)

    for options in ({"num_beams": 3}, {"num_beams": 4, "temperature": 2.5}):
        beams, log_probs = theirs(
            backbone, keras_hub.samplers.BeamSampler(return_all_beams=True, **options), ids
        )
        found = generate(model, ids, LENGTH, samplers.BeamSampler(return_all_beams=True, **options))
        np.testing.assert_array_equal(found["token_ids"], beams)
        np.testing.assert_allclose(found["log_probs"], log_probs.detach(), rtol=2e-5, atol=2e-5)
        found = generate(model, ids, LENGTH, samplers.BeamSampler(**options))
        np.testing.assert_array_equal(found["token_ids"], beams[:, 0])
    if case.cls == "RWKV7Backbone":
        with pytest.raises(NotImplementedError, match="RWKV7Backbone gives logits"):
            generate(model, ids, LENGTH, "contrastive")
        return
    for options in ({}, {"k": 3, "alpha": 0.3, "temperature": 3.0}):
        expected = theirs(backbone, keras_hub.samplers.ContrastiveSampler(**options), ids)
        found = generate(model, ids, LENGTH, samplers.ContrastiveSampler(**options))
        np.testing.assert_array_equal(found["token_ids"], expected)


@pytest.fixture
def gpt2() -> Any:
    return model_of(next(case for case in FIRSTS if case.cls == "GPT2Backbone"))


SEARCHES = [
    (samplers.BeamSampler(3), keras_hub.samplers.BeamSampler(3)),
    (samplers.ContrastiveSampler(3, 0.5), keras_hub.samplers.ContrastiveSampler(3, 0.5)),
]


@pytest.mark.parametrize(("mine", "other"), SEARCHES, ids=["beam", "contrastive"])
def test_stop_tokens(gpt2: Any, mine: Any, other: Any) -> None:
    """Each prompt as KerasHub has it alone: there a row that is done goes on with the others, and
    0 would stop at once, since the prompt's free places hold it.
    """
    ids = torch.tensor([[3, 1, 2], [4, 5, 6], [9, 8, 7]])
    for stops in ([2, 5, 9, 14, 30], list(range(2, 37, 2)), [36]):
        together = generate(gpt2, ids, LENGTH, mine, stop_token_ids=stops, pad_token_id=-1)
        for row, prompt in enumerate(ids):
            expected = theirs(gpt2, other, prompt[None].numpy(), stop_token_ids=stops)[0].tolist()
            new = expected[3:]
            end = next((i + 1 for i, token in enumerate(new) if token in stops), len(new))
            found = together["token_ids"][row].tolist()
            assert found == expected[: 3 + end] + [-1] * (len(new) - end)
            assert together["padding_mask"][row].sum() == 3 + end


@firsts
@pytest.mark.parametrize("sampler", [pair[0] for pair in SEARCHES], ids=["beam", "contrastive"])
def test_prompts_of_different_lengths(case: oracle.Case, sampler: Any) -> None:
    """Padded on the left, on the right, or alone."""
    if case.cls == "RWKV7Backbone" and isinstance(sampler, samplers.ContrastiveSampler):
        pytest.skip("gives no hidden states")
    model, ids = model_of(case), long_inputs(case)
    prompts = [ids[0, :5].tolist(), ids[1, :2].tolist(), ids[2, :3].tolist()]
    left = [[0] * (5 - len(row)) + row for row in prompts]
    mask = [[0] * (5 - len(row)) + [1] * len(row) for row in prompts]
    right = generate(model, prompts, max_new_tokens=5, sampler=sampler)
    left = generate(model, left, 10, sampler, padding_mask=mask)
    for row, prompt in enumerate(prompts):
        alone = generate(model, prompt, max_new_tokens=5, sampler=sampler)["token_ids"][0]
        assert torch.equal(right["token_ids"][row][right["padding_mask"][row]], alone)
        assert torch.equal(left["token_ids"][row][left["padding_mask"][row]], alone)
        assert torch.equal(left["token_ids"][row, 5:], alone[len(prompt) :])


def test_the_best_beams(gpt2: Any) -> None:
    ids = torch.tensor([[3, 1, 2], [4, 5, 6]])
    everything = generate(gpt2, ids, 8, samplers.BeamSampler(4, return_all_beams=True))
    assert everything["token_ids"].shape == (2, 4, 8)
    found = generate(gpt2, ids, 8, samplers.BeamSampler(4), num_return_sequences=2)
    assert torch.equal(found["token_ids"], everything["token_ids"][:, :2].flatten(0, 1))
    assert torch.equal(found["log_probs"], everything["log_probs"][:, :2].flatten())
    greedy = generate(gpt2, ids, 8)["token_ids"]
    assert torch.equal(generate(gpt2, ids, 8, samplers.BeamSampler(1))["token_ids"], greedy)
    scored = generate(gpt2, ids, 8, samplers.BeamSampler(4), return_scores=True)
    torch.testing.assert_close(scored["scores"].sum(1), scored["log_probs"])


def test_names_and_caches(gpt2: Any) -> None:
    ids = torch.tensor([[3, 1, 2], [4, 5, 6]])
    for name, sampler in (
        ("beam", samplers.BeamSampler(5)),
        ("contrastive", samplers.ContrastiveSampler(5, 0.6)),
    ):
        expected = generate(gpt2, ids, 9, sampler)["token_ids"]
        cache = gpt2.make_cache(10, 17)
        for _ in range(2):
            assert torch.equal(generate(gpt2, ids, 9, name, cache=cache)["token_ids"], expected)
        with pytest.raises(ValueError, match="for 2 rows of 9 tokens; this needs 10 of 9"):
            generate(gpt2, ids, 9, name, cache=gpt2.make_cache(2, 9))
    greedy = generate(gpt2, ids, 9)["token_ids"]
    found = generate(gpt2, ids, 9, samplers.ContrastiveSampler(3, alpha=0))["token_ids"]
    assert torch.equal(found, greedy)
    with pytest.raises(ValueError, match="k=99, but the vocabulary has 37"):
        generate(gpt2, ids, 9, samplers.ContrastiveSampler(99))


def test_what_is_yielded(gpt2: Any) -> None:
    seen: list[torch.Tensor] = []
    found = generate(gpt2, [3, 1, 2], 9, "contrastive", streamer=seen.append)
    assert torch.equal(torch.stack(seen, dim=1), found["token_ids"][:, 3:])
    with pytest.raises(ValueError, match="Beams are known at their end only"):
        keras_hub_torch.stream(gpt2, [3, 1, 2], 9, "beam")
