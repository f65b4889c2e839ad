"""What an assistant drafts changes nothing but how often the model runs."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch

from keras_hub_torch import generate, samplers, stream
from keras_hub_torch.generation import decoding
from keras_hub_torch.models import GPT2Backbone, Qwen3_5Backbone

from . import oracle
from .cases import all_cases
from .test_cache import CASES, long_inputs, model_of
from .test_encoder_decoders import WITH_LOGITS as CROSS
from .test_encoder_decoders import inputs_of

STATES = ("RWKV7Backbone", "Qwen3_5Backbone", "Qwen3_5MoeBackbone")
KEEPING = [case for case in CASES if case.cls not in STATES]


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture
def gpt2() -> Any:
    return model_of(next(case for case in CASES if case.cls == "GPT2Backbone"))


def like(model: Any, deviation: float = 0.02) -> Any:
    """A model that says nearly the same."""
    assistant = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    for parameter in assistant.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * deviation)
    return assistant


def runs(model: Any) -> list[int]:
    """Lengths of the inputs of each of its calls."""
    lengths: list[int] = []
    embedding = model.token_embedding

    def note(module: Any, args: Any, kwargs: Any) -> None:
        if not kwargs.get("reverse"):
            lengths.append(args[0].shape[1])

    embedding.register_forward_pre_hook(note, with_kwargs=True)
    return lengths


@pytest.mark.parametrize("case", KEEPING, ids=[case.id for case in KEEPING])
def test_greedy(case: oracle.Case) -> None:
    model, ids = model_of(case), long_inputs(case)
    prompts = [ids[0, :5].tolist(), ids[1, :2].tolist(), ids[2, :3].tolist()]
    expected = generate(model, prompts, 12, stop_token_ids=ids[0, :2])
    for assistant in (like(model), model):
        found = generate(model, prompts, 12, stop_token_ids=ids[0, :2], assistant_model=assistant)
        for name in expected:
            assert torch.equal(found[name], expected[name])


def test_a_model_is_its_own_best_assistant(gpt2: Any) -> None:
    assistant = copy.deepcopy(gpt2)
    mine, others = runs(gpt2), runs(assistant)
    expected = generate(gpt2, [[1, 2, 3], [4, 5, 6]], max_new_tokens=14)
    mine.clear()
    found = generate(gpt2, [[1, 2, 3], [4, 5, 6]], max_new_tokens=14, assistant_model=assistant)
    assert torch.equal(found["token_ids"], expected["token_ids"])
    assert mine == [3, 6, 6, 1]
    assert others == [3, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    mine.clear()
    sampler = samplers.SpeculativeSampler(num_speculative_tokens=2)
    generate(gpt2, [1, 2, 3], max_new_tokens=8, sampler=sampler, assistant_model=assistant)
    assert mine == [3, 3, 3, 1]


@pytest.mark.parametrize("sampler", ["greedy", lambda logits: (2 * logits).argmax(-1)])
def test_settings(gpt2: Any, sampler: Any) -> None:
    prompts = [[1, 2, 3, 4], [5, 6]]
    settings = {
        "max_length": 15,
        "sampler": sampler,
        "repetition_penalty": 1.7,
        "padding_mask": [[1, 1, 1, 1], [0, 1, 0, 1]],
        "pad_token_id": 9,
    }
    ids = torch.tensor([[1, 2, 3, 4], [0, 5, 0, 6]])
    expected = generate(gpt2, ids, return_scores=True, **settings)
    assistant = like(gpt2)
    found = generate(gpt2, ids, return_scores=True, assistant_model=assistant, **settings)
    oracle.assert_close(found, oracle.named(expected))
    steps = stream(gpt2, prompts, max_new_tokens=6, assistant_model=assistant)
    alone = stream(gpt2, prompts, max_new_tokens=6)
    assert torch.equal(torch.stack(list(steps)), torch.stack(list(alone)))


def test_compiled(gpt2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph for each model and length, few of them."""
    lengths = []

    def step(*args: Any) -> Any:
        lengths.append(args[3].shape[1])
        return decoding._step(*args)

    monkeypatch.setattr(decoding, "_compiled_step", lambda device: step)
    ids, assistant = [[1, 2, 3], [4, 5, 6]], like(gpt2)
    expected = generate(gpt2, ids, max_new_tokens=13)
    found = generate(gpt2, ids, max_new_tokens=13, assistant_model=assistant, compile=True)
    assert torch.equal(found["token_ids"], expected["token_ids"])
    assert {6} < set(lengths) <= {1, 2, 6}


def test_vocabularies_of_other_sizes(gpt2: Any) -> None:
    expected = generate(gpt2, [1, 2, 3], max_new_tokens=12)
    for size in (gpt2.vocabulary_size + 7, gpt2.vocabulary_size - 7):
        config = {**gpt2.get_config(), "vocabulary_size": size}
        assistant = GPT2Backbone.from_config(config).eval()
        found = generate(gpt2, [1, 2, 3], max_new_tokens=12, assistant_model=assistant)
        assert torch.equal(found["token_ids"], expected["token_ids"])


@pytest.mark.parametrize("case", CROSS, ids=[case.id for case in CROSS])
def test_encoder_decoders(case: oracle.Case) -> None:
    model, inputs = model_of(case), inputs_of(case, length=2)
    expected = generate(model, inputs, max_new_tokens=7)
    found = generate(model, inputs, max_new_tokens=7, assistant_model=like(model))
    assert torch.equal(found["token_ids"], expected["token_ids"])


def test_images() -> None:
    """An assistant may see them, or not."""
    case = next(case for case in all_cases() if case.cls == "PaliGemmaBackbone")
    model = model_of(case)
    given = {k: torch.as_tensor(v) for k, v in case.inputs(case.rng).items()}
    prompts = {"images": given["images"], "token_ids": given["token_ids"][:, :3]}
    expected = generate(model, prompts, max_new_tokens=6)
    text = next(case for case in CASES if case.cls == "GPT2Backbone")
    blind = model_of(text, vocabulary_size=model.vocabulary_size)
    for assistant in (like(model), blind):
        found = generate(model, prompts, max_new_tokens=6, assistant_model=assistant)
        assert torch.equal(found["token_ids"], expected["token_ids"])


def tiny(seed: int) -> Any:
    torch.manual_seed(seed)
    model = GPT2Backbone(4, 1, 1, 4, 8, max_sequence_length=16).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.4)
    return model


def chances(model: Any, sampler: Any, length: int) -> torch.Tensor:
    """Of all continuations of a prompt, by hand."""
    every = torch.tensor(list(itertools.product(range(4), repeat=length)))
    ids = torch.cat((torch.tensor([[1, 2]]).expand(len(every), -1), every), dim=1)
    logits = model.token_embedding(model(ids), reverse=True)[:, 1:-1]
    found = torch.stack([sampler.probabilities(one) for one in logits.unbind(1)], dim=1)
    return found.gather(2, every[..., None])[..., 0].prod(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: samplers.RandomSampler(seed=3),
        lambda: samplers.TopKSampler(3, seed=3, temperature=1.5),
        lambda: samplers.TopPSampler(0.8, seed=3),
    ],
    ids=["random", "top-k", "top-p"],
)
@pytest.mark.parametrize("rows", [1, 4000])
def test_distribution(make: Any, rows: int) -> None:
    """That of the model alone, with an assistant that says something else."""
    model, assistant, base = tiny(0), tiny(1), make()
    sampler = samplers.SpeculativeSampler(2, base)
    draws = 4000 if rows > 1 else 250
    counts = torch.zeros(64)
    for _ in range(draws // rows):
        found = generate(
            model,
            [1, 2],
            max_new_tokens=3,
            sampler=sampler,
            num_return_sequences=rows,
            assistant_model=assistant,
        )["token_ids"][:, 2:]
        counts += torch.bincount(found @ torch.tensor([16, 4, 1]), minlength=64)
    expected = draws * chances(model, base, 3)
    assert not counts[expected == 0].any()
    # Pearson's statistic has this mean and deviation.
    freedom = int((expected > 0).sum()) - 1
    statistic = ((counts - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()
    least = expected[expected > 0].min()
    assert abs(statistic - freedom) < 5 * (2 * freedom + freedom / least) ** 0.5


def test_seeds(gpt2: Any) -> None:
    def drawn() -> torch.Tensor:
        sampler = samplers.SpeculativeSampler(3, samplers.TopKSampler(9, seed=5))
        found = generate(
            gpt2, [[1, 2], [3, 4]], 16, sampler, assistant_model=like(gpt2), num_return_sequences=2
        )
        return found["token_ids"]

    assert torch.equal(drawn(), drawn())


def test_what_cannot_be() -> None:
    case = next(case for case in CASES if case.id == "mistral-window")
    model, recurrent = model_of(case), next(c for c in CASES if c.cls == "Qwen3_5Backbone")
    state = Qwen3_5Backbone(**recurrent.config).eval()
    bart = model_of(next(case for case in CROSS if case.cls == "BartBackbone"))
    bert = next(case for case in all_cases() if case.cls == "BertBackbone")

    def refused(error: type[Exception], match: str, target: Any = model, **kwargs: Any) -> None:
        with pytest.raises(error, match=match):
            generate(target, [1, 2], **{"max_length": 9, "assistant_model": model, **kwargs})

    refused(NotImplementedError, "Qwen3_5Backbone keeps a state", assistant_model=state)
    refused(NotImplementedError, "Qwen3_5Backbone keeps a state", target=state)
    refused(NotImplementedError, "BertBackbone is an encoder", assistant_model=model_of(bert))
    refused(ValueError, "does not go on with what MistralBackbone does", assistant_model=bart)
    refused(ValueError, "not for a BeamSampler", sampler="beam")
    refused(ValueError, "needs an assistant_model", sampler="speculative", assistant_model=None)
    refused(ValueError, "windows=False", cache=model.make_cache(1, 9), max_length=9)
    refused(ValueError, "is on meta, and the model on cpu", assistant_model=like(model).to("meta"))
    with pytest.raises(TypeError, match="must choose single tokens"):
        samplers.SpeculativeSampler(base_sampler="beam")
    with pytest.raises(ValueError, match="num_speculative_tokens"):
        samplers.SpeculativeSampler(0)
