"""Text that is denoised a block at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import keras_hub_torch
from keras_hub_torch import generate, samplers, stream
from keras_hub_torch.generation import block_diffusion
from keras_hub_torch.models import Backbone

from . import oracle
from .checkpoints.diffusion_gemma import CONFIG
from .nightly import nightly_cases
from .test_cache import CASES, model_of

WINDOW = 4


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """transformers' model, all of whose weights are random, and ours."""
    torch.manual_seed(0)
    text = {**CONFIG["text_config"], "sliding_window": WINDOW}
    text |= {"final_logit_softcapping": 30.0}
    config = transformers.DiffusionGemmaConfig(**{**CONFIG, "text_config": text})
    theirs = transformers.DiffusionGemmaForBlockDiffusion(config).eval()
    theirs.set_experts_implementation("eager")
    scalars = [scalar for name, scalar in theirs.named_buffers() if "scalar" in name]
    for tensor in (*theirs.parameters(), *scalars):
        tensor.data.add_(torch.randn_like(tensor) * 0.2)
    folder = tmp_path_factory.mktemp("diffusion")
    theirs.save_pretrained(folder)
    ours: Any = Backbone.from_preset(folder)
    return theirs, ours


IDS = torch.tensor([[3, 5, 7, 2, 8, 1, 9], [11, 13, 4, 6, 2, 2, 5]])


def test_as_transformers(pair: Any) -> None:
    """A prompt, two steps for one block, and a step for the next."""
    theirs, ours = pair
    generator = torch.Generator().manual_seed(1)
    block, other = torch.randint(30, (2, 2, 3), generator=generator).unbind()
    memory = transformers.DynamicCache(config=theirs.config.get_text_config())
    cache = ours.make_cache(2, 13)
    first = theirs(input_ids=IDS, decoder_input_ids=block, past_key_values=memory)
    states = ours.encode(IDS, cache=cache)
    oracle.assert_close(states, oracle.named(first.encoder_last_hidden_state))
    index = torch.tensor([7])
    found = ours.denoise_step(block, cache, index)
    oracle.assert_close(found, oracle.named(first.logits))
    second = theirs(
        decoder_input_ids=other, past_key_values=memory, self_conditioning_logits=first.logits
    )
    found = ours.denoise_step(other, cache, index, found)
    oracle.assert_close(found, oracle.named(second.logits))
    ours.encode(other, cache=cache, cache_update_index=index)
    position = torch.arange(7, 10)[None]
    third = theirs(
        input_ids=other, decoder_input_ids=block, past_key_values=memory, position_ids=position
    )
    found = ours.denoise_step(block, cache, torch.tensor([10, 10]))
    oracle.assert_close(found, oracle.named(third.logits))


SURE = {"t_min": 1e-3, "t_max": 1e-3, "canvas_length": 3, "max_denoising_steps": 3}


@pytest.fixture
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same block for all rows to begin with."""
    zeros = torch.zeros
    monkeypatch.setattr(torch, "randint", lambda high, size, **_: zeros(*size, dtype=torch.long))


@pytest.mark.usefixtures("_quiet")
def test_rows(pair: Any) -> None:
    """Each goes on as if it stood alone, wherever its padding is, and ends by itself."""
    ours = pair[1]
    sampler = samplers.EntropyBoundSampler(**SURE)
    prompts = [IDS[0, :5].tolist(), IDS[1, :2].tolist()]
    alone = [generate(ours, one, 13, sampler)["token_ids"][0] for one in prompts]
    together = generate(ours, prompts, 13, sampler)
    assert torch.equal(together["token_ids"], torch.stack(alone))
    assert together["padding_mask"].all()
    padded = torch.tensor([prompts[0], [0, 0, 0, *prompts[1]]])
    mask = torch.tensor([[1] * 5, [0, 0, 0, 1, 1]])
    found = generate(ours, padded, max_new_tokens=8, padding_mask=mask, sampler=sampler)
    assert torch.equal(found["token_ids"][0], alone[0])
    assert torch.equal(found["token_ids"][1, 3:], alone[1][:10])
    stop = int(alone[0][7])
    found = generate(ours, prompts, 13, sampler, stop_token_ids=stop, pad_token_id=9)
    end = alone[0].tolist().index(stop, 5) + 1
    assert torch.equal(
        found["token_ids"][0], torch.cat((alone[0][:end], torch.full((13 - end,), 9)))
    )
    assert found["padding_mask"][0].sum() == end
    steps = torch.stack(list(stream(ours, prompts[0], 13, sampler)), dim=1)
    assert torch.equal(steps[0], alone[0][5:])
    several = generate(ours, prompts, 13, sampler, num_return_sequences=2)["token_ids"]
    assert torch.equal(several, together["token_ids"].repeat_interleave(2, 0))
    step = torch.compile(block_diffusion._step, fullgraph=True, dynamic=False, backend="eager")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_diffusion, "_compiled_step", lambda: step)
        found = generate(ours, prompts, 13, sampler, compile=True)
    assert torch.equal(found["token_ids"], together["token_ids"])


def test_draws(pair: Any) -> None:
    ours = pair[1]

    def drawn(seed: int) -> torch.Tensor:
        sampler = samplers.EntropyBoundSampler(seed=seed, canvas_length=5, max_denoising_steps=4)
        found: torch.Tensor = generate(ours, IDS, max_new_tokens=8, sampler=sampler)["token_ids"]
        return found

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert generate(ours, IDS, max_new_tokens=2)["token_ids"].shape == (2, 9)


def test_images(pair: Any) -> None:
    """As the backbone's own pass, where the scalars are the same."""
    case = next(case for case in nightly_cases() if case.id.startswith("diffusion-gemma"))
    model: Any = getattr(keras_hub_torch.models, case.cls)(**case.config).eval()
    assert model.vision_encoder is not None
    model.images_both_ways = False
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    given = oracle.tensors(case.make_inputs())
    given.pop("position_ids", None)
    rows, length = given["token_ids"].shape
    cache = model.make_cache(rows, length + 3)
    oracle.assert_close(model.encode(**given, cache=cache), oracle.named(model(given)))
    model.images_both_ways = True
    assert not torch.equal(model.encode(**given, cache=cache), model(given))
    whole = given["padding_mask"].all(1)
    given, rows = {name: value[whole] for name, value in given.items()}, int(whole.sum())
    found = generate(model, given, max_new_tokens=2, sampler=samplers.EntropyBoundSampler(**SURE))
    assert found["token_ids"].shape == (rows, length + 2)


def sure_of(sampler: samplers.EntropyBoundSampler, logits: torch.Tensor) -> tuple[Any, int]:
    """What it finds, and after how many steps, where each gives these logits."""
    steps = []

    def step(canvas: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
        steps.append((canvas, before))
        return logits

    found = sampler.denoise(step, torch.zeros(logits.shape[:2], dtype=torch.long), logits.shape[-1])
    return found, len(steps)


def test_entropies() -> None:
    """Numbers of KerasHub 0.33's sampler."""
    settings = {"max_denoising_steps": 9, "t_min": 1.0, "t_max": 1.0}
    logits = 30 * torch.nn.functional.one_hot(torch.tensor([[1, 3, 2], [0, 1, 1]]), 4).float()
    found, steps = sure_of(samplers.EntropyBoundSampler(**settings), logits)
    assert found.tolist() == [[1, 3, 2], [0, 1, 1]]
    assert steps == 2  # sure at once, and then the same
    patient = samplers.EntropyBoundSampler(**settings, stability_threshold=3)
    assert sure_of(patient, logits)[1] == 4
    assert sure_of(samplers.EntropyBoundSampler(**settings), logits / 10)[1] == 9
    bound = samplers.EntropyBoundSampler(entropy_bound=0.5)
    entropies = torch.tensor([[0.4, 0.1, 0.3, 0.2], [0.6, 0.7, 0.8, 0.9]])
    # Up to the first one that crosses the bound.
    assert bound._sure(entropies).tolist() == [
        [False, True, True, True],
        [True, False, False, False],
    ]


def test_what_is_refused(pair: Any) -> None:
    ours = pair[1]
    gpt2 = model_of(next(case for case in CASES if case.cls == "GPT2Backbone"))
    for model, options, match in (
        (ours, {"sampler": "top_k"}, "does not take a TopKSampler"),
        (ours, {"sampler": "beam"}, "does not take a BeamSampler"),
        (gpt2, {"sampler": "entropy_bound"}, "GPT2Backbone does not take a EntropyBoundSampler"),
        (ours, {"return_scores": True}, "without repetition_penalty, return_scores"),
        (ours, {"repetition_penalty": 2.0}, "without repetition_penalty"),
        (ours, {"cache": ours.make_cache(1, 9)}, "this needs 1 of 258"),
    ):
        with pytest.raises(ValueError, match=match):
            generate(model, [1, 2], max_new_tokens=3, **options)
    for settings in ({"canvas_length": 0}, {"t_min": 0}, {"entropy_bound": -1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            samplers.EntropyBoundSampler(**settings)
