from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import accelerate
import keras_hub
import numpy as np
import pytest
import torch
import transformers
from torch._dynamo.utils import counters
from transformers import RepetitionPenaltyLogitsProcessor

import keras_hub_torch
from keras_hub_torch import generate, samplers, stream
from keras_hub_torch.backbones._configuration import constructor_arguments
from keras_hub_torch.generation import decoding

from . import oracle
from .cases import all_cases
from .test_cache import CASES, FIRSTS, close, long_inputs, model_of, on_meta

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


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_padding_is_left_out(case: oracle.Case) -> None:
    """Padding on the left, in the middle and on the right changes nothing; it stays where it is."""
    model, ids = model_of(case), long_inputs(case)
    prompts = [ids[0, :5], ids[1, :2], ids[2, :3]]
    mask = torch.tensor(
        [[1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0, 1], [0, 0, 0, 0, 1, 1, 1]]
    ).bool()
    padded = torch.full(mask.shape, -100)
    padded[mask] = torch.cat(prompts)

    def logits_of(*args: Any, **kwargs: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        seen: list[torch.Tensor] = []

        def sampler(logits: torch.Tensor) -> torch.Tensor:
            seen.append(logits)
            return logits.argmax(-1)

        found = generate(model, *args, sampler=sampler, max_new_tokens=4, **kwargs)
        return found, torch.stack(seen, dim=1)

    found, logits = logits_of(padded, padding_mask=mask, pad_token_id=-7)
    assert found["token_ids"].shape == (3, 11)
    for row, (prompt, end) in enumerate(zip(prompts, (5, 7, 7))):
        alone, expected = logits_of(prompt)
        close(logits[row], expected[0])
        assert torch.equal(found["token_ids"][row, end : end + 4], alone["token_ids"][0, -4:])
        seen = torch.cat((mask[row, :end], torch.ones(4), torch.zeros(7 - end))).bool()
        assert torch.equal(found["padding_mask"][row], seen)
        assert torch.equal(found["token_ids"][row][seen], alone["token_ids"][0])
        assert (found["token_ids"][row][~seen] == -7).all()


def test_padding_and_the_length_of_pretraining() -> None:
    """Each row has the frequencies of its own length, as far as its prompt goes."""
    case = next(case for case in CASES if case.id == "phi3-long")
    model, ids = model_of(case, pretraining_sequence_length=4), long_inputs(case)
    prompts = [ids[0, :6].tolist(), ids[1, :2].tolist()]
    found = generate(model, prompts, max_new_tokens=5)
    for row, prompt in enumerate(prompts):
        alone = generate(model, prompt, max_new_tokens=5)["token_ids"][0]
        assert torch.equal(found["token_ids"][row][found["padding_mask"][row]], alone)


def modes(model: torch.nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def noise_of(case: oracle.Case) -> list[str]:
    known = constructor_arguments(getattr(keras_hub_torch.models, case.cls))
    # SmolLM3's has no effect, as in KerasHub.
    return [name for name in known if "dropout" in name and case.cls != "SmolLM3Backbone"]


def noisy_model(case: oracle.Case, quiet: Any) -> Any:
    """The same in training, but for a part, and with all noise that it has."""
    noise = dict.fromkeys(noise_of(case), 0.5)
    if case.cls == "MixtralBackbone":
        noise["router_jitter_noise"] = 0.5
    model = model_of(case, **noise).train()
    model.load_state_dict(quiet.state_dict())
    next(reversed(list(model.modules()))).eval()
    return model


@firsts
def test_no_mode_is_touched(case: oracle.Case) -> None:
    quiet, ids = model_of(case), long_inputs(case)[:, :4]
    model = noisy_model(case, quiet)
    expected = generate(quiet, ids, 10)["token_ids"]
    before = modes(model)
    steps = stream(model, ids, 10)
    assert torch.equal(next(steps), expected[:, 4])
    assert modes(model) == before
    assert torch.equal(model(ids), model(ids)) == (not noise_of(case))
    # Whoever reads a stream is not within it.
    assert torch.equal(torch.stack(list(steps), dim=1), expected[:, 5:])
    assert torch.equal(generate(model, ids, 10)["token_ids"], expected)
    assert modes(model) == before


def test_gradients_around_a_stream(gpt2: Any) -> None:
    for _ in stream(gpt2, [1, 2], max_new_tokens=2):
        assert torch.is_grad_enabled()
        assert gpt2(torch.tensor([[1]])).requires_grad
    assert not generate(gpt2, [1, 2], 5, return_scores=True)["scores"].requires_grad


def test_threads(gpt2: Any) -> None:
    """Some generate while others train on the same model."""
    case = next(case for case in FIRSTS if case.cls == "GPT2Backbone")
    model, ids = noisy_model(case, gpt2), long_inputs(case)[:, :4]
    expected = [generate(gpt2, row, 14)["token_ids"] for row in ids]

    def work(i: int) -> bool:
        if i % 4 == 3:
            return not torch.equal(model(ids), model(ids))
        return torch.equal(generate(model, ids[i % 4], 14)["token_ids"], expected[i % 4])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))


@firsts
def test_offloaded(case: oracle.Case) -> None:
    """Weights that are elsewhere between calls."""
    model, ids = model_of(case), long_inputs(case)[:, :4]
    expected = generate(model, ids.numpy(), 10)["token_ids"]
    beams = generate(model, ids, 10, "beam")["token_ids"]
    for mode in (model.eval, model.train):
        accelerate.cpu_offload(mode(), torch.device("cpu"))
        assert next(model.parameters()).is_meta
        assert model.device == torch.device("cpu")
        assert torch.equal(generate(model, ids.numpy(), 10)["token_ids"], expected)
        assert torch.equal(generate(model, ids, 10, "beam")["token_ids"], beams)
        accelerate.hooks.remove_hook_from_submodules(model)


@firsts
def test_scores(case: oracle.Case) -> None:
    model, ids = model_of(case), long_inputs(case)
    prompts = [ids[0, :5].tolist(), ids[1, :2].tolist()]
    for sampler in (samplers.TopKSampler(3, seed=1, temperature=2.0), "beam"):
        found = generate(model, prompts, 9, sampler, repetition_penalty=1.5, return_scores=True)
        assert found["scores"].shape == (2, 9)
        for row, prompt in enumerate(prompts):
            tokens = found["token_ids"][row][None]
            with torch.no_grad():
                logits = model.token_embedding(model(tokens), reverse=True)
            exact = logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[0, :, 0]
            close(found["scores"][row, len(prompt) :], exact[len(prompt) - 1 :])
            assert not found["scores"][row, : len(prompt)].any()


def test_max_new_tokens(gpt2: Any) -> None:
    prompts = [[3, 1, 2], [4]]
    found = generate(gpt2, prompts, max_new_tokens=5)
    assert found["padding_mask"].tolist() == [[True] * 8, [True] * 6 + [False] * 2]
    longer = generate(gpt2, prompts, 8)
    assert torch.equal(found["token_ids"][0], longer["token_ids"][0])
    assert torch.equal(found["token_ids"][1, :6], longer["token_ids"][1, :6])
    assert longer["padding_mask"].all()
    nothing = generate(gpt2, prompts, max_new_tokens=0)["token_ids"]
    assert nothing.tolist() == [[3, 1, 2], [4, 0, 0]]
    # KerasHub's prompts have room already.
    inputs = {"token_ids": [[3, 1, 2, 0, 0, 0]], "padding_mask": [[1, 1, 1, 0, 0, 0]]}
    for options in ({"max_length": 5}, {"max_new_tokens": 2}):
        found = generate(gpt2, inputs, **options)
        assert torch.equal(found["token_ids"][0], longer["token_ids"][0, :5])


def test_streams(gpt2: Any) -> None:
    prompts = [[3, 1, 2], [4]]
    free = generate(gpt2, prompts, max_new_tokens=6)["token_ids"]
    stop = int(free[0, 5])
    options: dict[str, Any] = {"max_new_tokens": 6, "stop_token_ids": stop, "pad_token_id": -1}
    seen: list[torch.Tensor] = []
    found = generate(gpt2, prompts, streamer=seen.append, **options)
    steps = torch.stack(seen, dim=1)
    assert torch.equal(torch.stack(list(stream(gpt2, prompts, **options)), dim=1), steps)
    for row, prompt in enumerate(prompts):
        new = found["token_ids"][row, len(prompt) :]
        assert steps[row].tolist()[: len(new)] == new.tolist()[: steps.shape[1]]
    assert (steps[0, 3:] == -1).all()
    steps = stream(gpt2, prompts, max_new_tokens=6)
    next(steps)
    steps.close()


def test_sequences_of_one_prompt(gpt2: Any) -> None:
    prompts = [[3, 1, 2], [4]]
    found = generate(gpt2, prompts, 8, samplers.RandomSampler(seed=1), num_return_sequences=3)[
        "token_ids"
    ]
    again = generate(gpt2, [prompts[i // 3] for i in range(6)], 8, samplers.RandomSampler(seed=1))
    assert torch.equal(found, again["token_ids"])
    assert len({tuple(row) for row in found[:3].tolist()}) == 3
    for row in range(6):
        prompt = prompts[row // 3]
        assert found[row, : len(prompt)].tolist() == prompt


@pytest.mark.parametrize("penalty", [0.7, 1.8])
def test_repetition_penalty(gpt2: Any, penalty: float) -> None:
    """As in transformers, but that padding is not counted."""
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    prompts = [[3, 1, 2], [4, 9]]
    found = generate(gpt2, prompts, 14, repetition_penalty=penalty)["token_ids"]
    for row, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            while ids.shape[1] < 14:
                logits = gpt2.token_embedding(gpt2(ids)[:, -1], reverse=True)
                ids = torch.cat((ids, processor(ids, logits).argmax(-1, keepdim=True)), dim=1)
        assert torch.equal(found[row], ids[0])
    assert not torch.equal(found, generate(gpt2, prompts, 14)["token_ids"])


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


# Those whose `generate` in KerasHub is not what their own backbone says without a cache: the
# positions it gives to tokens differ, or (RWKV-7, Gemma 3) it does not run on plain inputs.
OTHERWISE = {
    "BLIP2Backbone",
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
    embedding = oracle.token_embedding(backbone)
    prompts = np.zeros((2, 12), "int32")
    prompts[:, :4] = long_inputs(case)[:2, :4].numpy()
    expected, mask = prompts.copy(), np.zeros((2, 12), "int32")
    mask[:, :4] = 1
    for end in range(4, 12):
        hidden = backbone(oracle.text_inputs(backbone, expected[:, :end]))
        if case.cls != "RWKV7Backbone":  # gives logits
            hidden = embedding(hidden, reverse=True)
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


@pytest.mark.parametrize(
    "settings", [{}, {"top_k": 0, "top_p": 0.7}, {"top_k": 9, "top_p": 0.8, "min_p": 0.3}]
)
def test_samplers_of_checkpoints(settings: dict[str, Any]) -> None:
    """What may be drawn is what transformers draws from."""
    logits = torch.randn(40, 70)
    warpers = [transformers.TemperatureLogitsWarper(0.6)]
    for name, warper in (("top_k", "TopK"), ("top_p", "TopP"), ("min_p", "MinP")):
        value = settings.get(name, {"top_k": 50}.get(name))
        warpers += [getattr(transformers, f"{warper}LogitsWarper")(value)] if value else []
    expected = transformers.LogitsProcessorList(warpers)(torch.zeros(40, 1).long(), logits)
    found = samplers.CheckpointSampler(temperature=0.6, **settings)
    torch.testing.assert_close(found.filter(logits / 0.6), expected)


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
        samplers.MinPSampler(seed=1): [0.4, 0.3, 0.2, 0.1],
        samplers.MinPSampler(min_p=0.6, seed=1): [4 / 7, 3 / 7, 0, 0],
        samplers.MinPSampler(min_p=1.0, seed=1): [1.0, 0, 0, 0],
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
    def refused(error: type[Exception], message: str, *args: Any, **kwargs: Any) -> None:
        for run in (generate, lambda *args, **kwargs: next(stream(*args, **kwargs))):
            with pytest.raises(error, match=message):
                run(gpt2, *args, **kwargs)

    refused(TypeError, r"token_ids must hold integers, not torch\.float32", torch.ones(1, 2), 5)
    refused(TypeError, r"token_ids must hold integers, not torch\.float64", np.ones((1, 2)), 5)
    refused(TypeError, r"token_ids must hold integers, not torch\.bool", [[True]], 5)
    for text in ("Hello", ["Hello"], ["Hello", "you"]):
        refused(TypeError, "Text needs a tokenizer, and this GPT2Backbone comes from no", text, 5)
    for text in ([["Hello"]], np.array(["Hello"])):
        refused(TypeError, "must hold integers, not .*Hello.*; a tokenizer makes them", text, 5)
    for empty in ([], [[]], [[1, 2], []], torch.zeros((0, 3), dtype=torch.long)):
        refused(ValueError, "Every prompt must have at least one token", empty, 5)
    refused(ValueError, "at least one token", [[1, 2]], 5, padding_mask=[[0, 0]])
    refused(ValueError, "from 0 to 36; there are 0 to 37", [0, 37], 5)
    refused(ValueError, r"\[batch, length\], not \(1, 1, 2\)", torch.ones(1, 1, 2), 5)
    refused(ValueError, "one axis", [[[1], [2]]], 5)
    refused(ValueError, r"shape \(1, 3\), token_ids \(1, 2\)", [[1, 2]], 5, padding_mask=[1, 1, 1])
    refused(ValueError, "0 for padding", [[1, 2]], 5, padding_mask=[[-torch.inf, 0.0]])
    refused(ValueError, "token_ids and padding_mask; there is input_ids", {"input_ids": [1]}, 5)
    refused(ValueError, "1 to max_length=2 tokens, not 3", [1, 2, 3], 2)
    refused(ValueError, "either max_length or max_new_tokens", [1, 2])
    refused(ValueError, "either max_length or max_new_tokens", [1, 2], 5, max_new_tokens=2)
    refused(ValueError, "max_new_tokens must be at least 0, not -1", [1], max_new_tokens=-1)
    refused(TypeError, "max_length must be an integer, not 5.0", [1], 5.0)
    refused(ValueError, "max_length is 18, but the position table has 17", [1], 18)
    refused(
        ValueError, "for 1 rows of 4 tokens; this needs 1 of 5", [1], 5, cache=gpt2.make_cache(1, 4)
    )
    refused(
        ValueError, "for 2 rows of 5 tokens; this needs 1 of 5", [1], 5, cache=gpt2.make_cache(2, 5)
    )
    refused(TypeError, "cache must come from make_cache, not be dict", [1], 5, cache={})
    other = model_of(FIRSTS[0]).make_cache(1, 5)
    other.layers *= 3
    refused(ValueError, "another model's", [1], 5, cache=other)
    refused(
        ValueError,
        r"Unknown sampler 'top-k'\. Known: beam, contrastive, entropy_bound, greedy",
        [1],
        5,
        "top-k",
    )
    refused(TypeError, r"an object, TopKSampler\(\), not the class", [1], 5, samplers.TopKSampler)
    refused(TypeError, "a name or a function of logits, not int", [1], 5, 7)
    refused(TypeError, "stop_token_ids must be integers", [1], 5, stop_token_ids=[1.5])
    refused(ValueError, "repetition_penalty must be above 0", [1], 5, repetition_penalty=0)
    refused(ValueError, "at least 1, not 0", [1], 5, "random", num_return_sequences=0)
    for name, most in (("greedy", 1), ("contrastive", 1)):
        refused(ValueError, f"finds {most} for each", [1], 5, name, num_return_sequences=2)
    with pytest.raises(ValueError, match="finds 5 for each"):
        generate(gpt2, [1], 5, "beam", num_return_sequences=6)
    with pytest.raises(TypeError, match="needs a backbone, not Sequential"):
        generate(torch.nn.Sequential(gpt2), [1], 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: samplers.GreedySampler(temperature=-1.0),
        lambda: samplers.RandomSampler(temperature=0),
        lambda: samplers.RandomSampler(temperature=float("nan")),
        lambda: samplers.TopKSampler(k=0),
        lambda: samplers.TopKSampler(k=2.5),  # type: ignore[arg-type]
        lambda: samplers.TopPSampler(p=1.5),
        lambda: samplers.TopPSampler(k=0),
        lambda: samplers.MinPSampler(min_p=-0.1),
        lambda: samplers.BeamSampler(num_beams=0),
        lambda: samplers.BeamSampler(temperature=0),
        lambda: samplers.ContrastiveSampler(k=0),
        lambda: samplers.ContrastiveSampler(alpha=2),
    ],
)
def test_settings_that_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()


def others() -> list[oracle.Case]:
    """The first text model of each family that is no decoder."""
    found = {case.cls: case for case in reversed(all_cases()) if "vocabulary_size" in case.config}
    return [case for case in found.values() if not on_meta(case).cache_shapes]


@pytest.mark.parametrize("case", others(), ids=lambda case: case.id)
def test_only_decoders_generate(case: oracle.Case) -> None:
    with pytest.raises(
        NotImplementedError, match=f"Only decoders generate, and {case.cls} is an encoder"
    ):
        generate(on_meta(case), [1], 5)


def test_embedding_models_are_refused() -> None:
    case = next(case for case in all_cases() if case.cls == "Gemma3Backbone")
    sizes = {"is_embedding_model": True, "pooling_intermediate_dim": 6, "embedding_dim": 5}
    model = keras_hub_torch.models.Gemma3Backbone(**case.config, **sizes).eval()
    with pytest.raises(NotImplementedError, match="gives sequence_output, pooled_output"):
        generate(model, [1, 2], 5)


def test_one_compilation(gpt2: Any) -> None:
    torch._dynamo.reset()
    counters.clear()
    ids = torch.tensor([[3, 1, 2], [4, 5, 6]])
    for sampler in ("greedy", samplers.ContrastiveSampler(1), samplers.BeamSampler(1)):
        expected = generate(gpt2, ids, 12, sampler)["token_ids"]
        for _ in range(2):
            found = generate(gpt2, ids, 12, sampler, compile=True)["token_ids"]
            assert torch.equal(found, expected)
    assert counters["stats"]["unique_graphs"] == 1
    gpt2.layer_norm.train()
    with pytest.raises(ValueError, match="evaluation mode"):
        generate(gpt2, ids, 12, compile=True)


def test_any_number_of_compilations(gpt2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives up behind eight: a server has more sizes of batches."""
    step = torch.compile(decoding._step, fullgraph=True, dynamic=False, backend="eager")
    monkeypatch.setattr(decoding, "_compiled_step", lambda device: step)
    with torch._dynamo.config.patch(recompile_limit=1, accumulated_recompile_limit=2):
        for rows in (1, 2, 3):
            ids = torch.ones((rows, 2), dtype=torch.long)
            found = generate(gpt2, ids, max_new_tokens=3, compile=True)
            assert torch.equal(found["token_ids"], generate(gpt2, ids, 5)["token_ids"])


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, keras_hub_torch; assert 'keras_hub_torch.generation' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
