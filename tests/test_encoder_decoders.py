"""Encoder-decoders with a cache, and the text they generate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch._dynamo.utils import counters

from keras_hub_torch import generate
from keras_hub_torch.models import Backbone

from . import oracle
from .cases import all_cases
from .test_cache import model_of, on_meta


def encoder_decoders() -> list[oracle.Case]:
    return [case for case in all_cases() if "decoder_token_ids" in on_meta(case).input_specs]


CASES = encoder_decoders()
every = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
FIRSTS = list({case.cls: case for case in reversed(CASES)}.values())
firsts = pytest.mark.parametrize("case", FIRSTS, ids=[case.id for case in FIRSTS])
# BLIP-2's head is in files alone.
WITHOUT = ("EdRecBackbone", "BLIP2Backbone")
WITH_LOGITS = [case for case in FIRSTS if case.cls not in WITHOUT]
generating = pytest.mark.parametrize("case", WITH_LOGITS, ids=[case.id for case in WITH_LOGITS])


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def inputs_of(case: oracle.Case, rows: int = 3, length: int = 9) -> dict[str, torch.Tensor]:
    """Those of the case for so many rows, with `length` tokens for the decoder."""
    given = {name: torch.as_tensor(value) for name, value in case.inputs(case.rng).items()}
    given = {name: torch.cat([value] * rows)[:rows] for name, value in given.items()}
    del given["decoder_padding_mask"]
    vocabulary = getattr(on_meta(case), "vocabulary_size", None) or case.config["vocab_size"]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (rows, length), generator=generator)
    return {**given, "decoder_token_ids": ids}


def named(outputs: Any) -> dict[str, torch.Tensor]:
    return outputs if isinstance(outputs, dict) else {"decoder_sequence_output": outputs}


def decoded(outputs: Any) -> torch.Tensor:
    return named(outputs)["decoder_sequence_output"]


def close(mine: torch.Tensor, expected: torch.Tensor) -> None:
    oracle.assert_close(mine, oracle.named(expected))


@every
def test_in_pieces(case: oracle.Case) -> None:
    """The encoder's inputs are needed once."""
    model, inputs = model_of(case), inputs_of(case)
    expected, ids = named(model(inputs)), inputs["decoder_token_ids"]
    cache = model.make_cache(3, 11)
    first = named(model({**inputs, "decoder_token_ids": ids[:, :4]}, cache=cache))
    assert first.keys() == expected.keys()
    if "encoder_sequence_output" in expected:
        close(first["encoder_sequence_output"], expected["encoder_sequence_output"])
    close(decoded(first), decoded(expected)[:, :4])
    for start, end in ((4, 5), (5, 8), (8, 9)):
        outputs = model(
            decoder_token_ids=ids[:, start:end], cache=cache, cache_update_index=torch.tensor(start)
        )
        assert list(named(outputs)) == ["decoder_sequence_output"]
        close(decoded(outputs), decoded(expected)[:, start:end])


@firsts
def test_rows_and_other_inputs(case: oracle.Case) -> None:
    """Prompts of different lengths; rows that change places; a cache for the next inputs."""
    model, inputs = model_of(case), inputs_of(case)
    expected, ids = decoded(model(inputs)), inputs["decoder_token_ids"]
    cache, larger = model.make_cache(3, 9), model.make_cache(4, 9)
    lengths = torch.tensor([4, 1, 3])
    mask = torch.arange(4) < lengths[:, None]
    prompts = {"decoder_token_ids": ids[:, :4] * mask, "decoder_padding_mask": mask}
    outputs = decoded(model({**inputs, **prompts}, cache=cache))
    rows = torch.tensor([2, 0, 1, 1])
    larger.take(rows, cache)
    for row, length in enumerate(lengths):
        close(outputs[row, :length], expected[row, :length])
    for memory, chosen in ((cache, torch.arange(3)), (larger, rows)):
        step = {"decoder_token_ids": ids[chosen].gather(1, lengths[chosen][:, None])}
        outputs = decoded(model(step, cache=memory, cache_update_index=lengths[chosen]))
        close(outputs[:, 0], expected[chosen, lengths[chosen]])
    shorter = {
        name: value if name.startswith("decoder") else value.flip(0)
        for name, value in inputs.items()
    }
    close(decoded(model(shorter, cache=cache)), decoded(model(shorter)))


@firsts
def test_one_compilation(case: oracle.Case) -> None:
    model, inputs = model_of(case), inputs_of(case)
    expected, ids = decoded(model(inputs)), inputs["decoder_token_ids"]
    cache = model.make_cache(3, 9)
    model({**inputs, "decoder_token_ids": ids[:, :2]}, cache=cache)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for i in range(2, 9):
        step = {"decoder_token_ids": ids[:, i : i + 1]}
        outputs = compiled(step, cache=cache, cache_update_index=torch.tensor(i))
        close(decoded(outputs), expected[:, i : i + 1])
    assert counters["stats"]["unique_graphs"] == 1


@generating
def test_generation(case: oracle.Case) -> None:
    """As without a cache, greedily; two beams hold the greedy one where it is the best."""
    model, inputs = model_of(case), inputs_of(case, length=2)
    ids = inputs["decoder_token_ids"]
    for _ in range(5):
        logits = model.logits(decoded(model({**inputs, "decoder_token_ids": ids}))[:, -1])
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    found = generate(model, inputs, max_new_tokens=5)
    assert torch.equal(found["token_ids"], ids)
    beams = generate(model, inputs, max_new_tokens=5, sampler="beam", num_return_sequences=2)
    assert beams["token_ids"].shape == (6, 7)


@firsts
def test_bad_calls(case: oracle.Case) -> None:
    model, inputs = model_of(case), inputs_of(case)
    cache = model.make_cache(3, 9)
    with pytest.raises(ValueError, match="missing: encoder_"):
        model({"decoder_token_ids": inputs["decoder_token_ids"]}, cache=cache)
    with pytest.raises(ValueError, match="do not fit a cache of 9"):
        model(inputs, cache=cache, cache_update_index=3)
    if case not in WITH_LOGITS:
        with pytest.raises(NotImplementedError, match="has no logits"):
            generate(model, inputs, max_new_tokens=5)


def test_rows_of_lists() -> None:
    """Encoder inputs of different lengths are padded and masked."""
    model = model_of(next(case for case in FIRSTS if case.cls == "BartBackbone"))
    rows = [[3, 4, 5, 6], [7, 8]]
    together = generate(
        model, {"encoder_token_ids": rows, "decoder_token_ids": [[1], [2]]}, max_new_tokens=4
    )
    for row, start in zip(rows, (1, 2)):
        alone = generate(
            model, {"encoder_token_ids": [row], "decoder_token_ids": [[start]]}, max_new_tokens=4
        )
        assert torch.equal(together["token_ids"][start - 1], alone["token_ids"][0])


def bart() -> Any:
    sizes = {"d_model": 12, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 40}
    heads = {"encoder_attention_heads": 3, "decoder_attention_heads": 3}
    widths = {"encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "max_position_embeddings": 32}
    return transformers.BartForConditionalGeneration(
        transformers.BartConfig(**sizes, **heads, **widths, forced_eos_token_id=None)
    )


def t5(tied: bool) -> Any:
    config = transformers.T5Config(
        d_model=12,
        d_kv=4,
        d_ff=20,
        num_layers=2,
        num_heads=3,
        vocab_size=40,
        tie_word_embeddings=tied,
        feed_forward_proj="gated-gelu",
    )
    return transformers.T5ForConditionalGeneration(config)


@pytest.mark.parametrize("make", [bart, lambda: t5(True), lambda: t5(False)], ids=[0, 1, 2])
@torch.no_grad()
def test_as_in_transformers(make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = make().eval()
    for parameter in theirs.parameters():
        parameter.normal_(0, 0.5)
    theirs.save_pretrained(tmp_path)
    model = Backbone.from_preset(tmp_path)
    ids = torch.randint(3, 40, (2, 7))
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    start = 2
    expected = theirs.generate(
        ids,
        attention_mask=mask.long(),
        decoder_start_token_id=start,
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=1,
    )
    inputs = {
        "encoder_token_ids": ids,
        "encoder_padding_mask": mask,
        "decoder_token_ids": [[start], [start]],
    }
    found = generate(model, inputs, max_new_tokens=8)
    assert torch.equal(found["token_ids"], expected)
