"""Decoders that read images before the text: with a cache, compiled, generating."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

import keras_hub_torch
from keras_hub_torch import generate, samplers

from . import oracle
from .cases import all_cases
from .test_cache import close, on_meta

IMAGE = {"images": torch.zeros(1)}


def seeing() -> list[oracle.Case]:
    return [
        case
        for case in all_cases()
        if hasattr(getattr(keras_hub_torch.models, case.cls), "token_embedding")
        and on_meta(case).positions_before_text(IMAGE)
        and on_meta(case).cache_shapes
    ]


CASES = seeing()
every = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
FIRSTS = list({case.cls: case for case in reversed(CASES)}.values())
firsts = pytest.mark.parametrize("case", FIRSTS, ids=[case.id for case in FIRSTS])


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def model_of(case: oracle.Case) -> Any:
    model = getattr(keras_hub_torch.models, case.cls)(**case.config).eval()
    generator = torch.Generator().manual_seed(len(case.id))
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def inputs_of(case: oracle.Case, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows of nine tokens, and their images."""
    given = case.make_inputs()
    images = np.random.default_rng(0).standard_normal((3, *given["images"].shape[1:]))
    ids = np.resize(np.concatenate([given["token_ids"].ravel(), np.arange(40)]), (3, 9))
    return torch.from_numpy(ids % model.vocabulary_size).long(), torch.from_numpy(images).float()


def whole(
    model: Any, ids: torch.Tensor, images: torch.Tensor | None, prompt: int, **masks: torch.Tensor
) -> torch.Tensor:
    """States of the text without a cache; `prompt` tokens of it belong to the prompt."""
    if "response_mask" in model.input_specs:
        masks["response_mask"] = (torch.arange(ids.shape[1]) >= prompt).expand_as(ids)
    out: torch.Tensor = model({"token_ids": ids, "images": images, **masks})
    return out[:, -ids.shape[1] :]


@every
@pytest.mark.parametrize("seen", [True, False])
def test_in_pieces(case: oracle.Case, seen: bool) -> None:
    model = model_of(case)
    ids, images = inputs_of(case, model)
    before = model.positions_before_text(IMAGE if seen else {})
    given = images if seen else None
    expected = whole(model, ids, given, 4)
    cache = model.make_cache(3, before + 9)
    first = model({"token_ids": ids[:, :4], "images": given}, cache=cache)
    assert first.shape[1] == before + 4
    close(first[:, before:], expected[:, :4])
    for start, end in ((4, 5), (5, 6), (6, 9)):
        index = torch.tensor(before + start) if end == 6 else before + start
        out = model(ids[:, start:end], cache=cache, cache_update_index=index)
        close(out, expected[:, start:end])
    if seen:
        with pytest.raises(ValueError, match="belong to the first call"):
            model({"token_ids": ids[:, 8:], "images": images}, cache=cache, cache_update_index=1)


@every
def test_rows_of_different_lengths(case: oracle.Case) -> None:
    model = model_of(case)
    ids, images = inputs_of(case, model)
    before = model.positions_before_text(IMAGE)
    lengths = torch.tensor([5, 1, 3])
    expected = [
        whole(model, ids[i : i + 1], images[i : i + 1], int(lengths[i]))[0] for i in range(3)
    ]
    cache = model.make_cache(3, before + 9)
    mask = torch.arange(5) < lengths[:, None]
    given = {"token_ids": ids[:, :5] * mask, "padding_mask": mask, "images": images}
    out = model(given, cache=cache)[:, before:]
    for row, length in enumerate(lengths):
        close(out[row, :length], expected[row][:length])
    for size in (1, 1, 2):
        places = lengths[:, None] + torch.arange(size)
        out = model(ids.gather(1, places), cache=cache, cache_update_index=lengths + before)
        close(out, torch.stack([expected[row][places[row]] for row in range(3)]))
        lengths = lengths + size


@firsts
def test_one_compilation(case: oracle.Case) -> None:
    torch._dynamo.reset()
    counters.clear()
    model = model_of(case)
    ids, images = inputs_of(case, model)
    before = model.positions_before_text(IMAGE)
    expected = whole(model, ids, images, 4)
    cache = model.make_cache(3, before + 9)
    model({"token_ids": ids[:, :4], "images": images}, cache=cache)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for i in range(4, 9):
        index = torch.tensor(before + i)
        out = compiled(ids[:, i : i + 1], cache=cache, cache_update_index=index)
        close(out, expected[:, i : i + 1])
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def by_hand(model: Any, prompt: torch.Tensor, image: torch.Tensor, length: int) -> torch.Tensor:
    """Greedy, without a cache, one row."""
    ids = prompt[None]
    while ids.shape[1] < length:
        last = whole(model, ids, image[None], len(prompt))[:, -1]
        next = model.token_embedding(last, reverse=True).argmax(-1, keepdim=True)
        ids = torch.cat((ids, next), dim=1)
    return ids[0]


@every
def test_generate(case: oracle.Case) -> None:
    """Prompts of different lengths, padding anywhere, one image without an axis for the batch."""
    model = model_of(case)
    ids, images = inputs_of(case, model)
    prompts = [ids[0, :4], ids[1, :1], ids[2, :2]]
    expected = [by_hand(model, *row, 8) for row in zip(prompts, images)]
    given = {"token_ids": prompts, "images": list(images.numpy())}
    for row, found in enumerate(generate(model, given, 8)["token_ids"]):
        assert torch.equal(found, expected[row])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 0], [0, 1, 0, 1]])
    padded = torch.zeros_like(mask)
    padded[mask.bool()] = torch.cat(prompts)
    given = {"token_ids": padded, "padding_mask": mask, "images": images}
    found = generate(model, given, max_new_tokens=4)
    for row, prompt in enumerate(prompts):
        new = found["token_ids"][row][found["padding_mask"][row].bool()][len(prompt) :]
        assert torch.equal(new, expected[row][len(prompt) : len(prompt) + 4])
    one = {"token_ids": prompts[0], "images": images[0]}
    for sampler in (samplers.BeamSampler(1), samplers.ContrastiveSampler(1)):
        assert torch.equal(generate(model, one, 8, sampler)["token_ids"][0], expected[0])
    cache = model.make_cache(1, 8 + model.positions_before_text(IMAGE))
    assert torch.equal(generate(model, one, 8, cache=cache)["token_ids"][0], expected[0])
    with pytest.raises(ValueError, match="this needs 1 of"):
        generate(model, one, 8, cache=model.make_cache(1, 8))
    with pytest.raises(ValueError, match=r"and .*; there is token_ids, images, pixels"):
        generate(model, {**one, "pixels": images[0]}, 8)
    with pytest.raises(ValueError, match="batch 3"):
        generate(model, {**one, "images": images}, 8)


@firsts
def test_equals_kerashub(case: oracle.Case, tmp_path: Path) -> None:
    """KerasHub's own `generate`."""
    backbone = oracle.keras_model(case)
    oracle.preset_of(backbone, tmp_path)
    model = keras_hub_torch.models.Backbone.from_preset(tmp_path)
    ids, images = inputs_of(case, model)
    prompts, mask = np.zeros((3, 9), "int32"), np.zeros((3, 9), "int32")
    prompts[:, :3], mask[:, :3] = ids[:, :3].numpy(), 1
    given = {"token_ids": prompts, "padding_mask": mask, "images": images.numpy()}
    task = getattr(keras_hub.models, case.cls.replace("Backbone", "CausalLM"))(
        backbone=backbone, preprocessor=None
    )
    task.compile(sampler="greedy")
    theirs = task.generate(given, stop_token_ids=None)["token_ids"]
    np.testing.assert_array_equal(generate(model, given, 9)["token_ids"].numpy(), theirs)
