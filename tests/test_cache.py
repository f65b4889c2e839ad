"""Decoding with a cache gives what the whole sequence gives at once."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

import keras_hub_torch
from keras_hub_torch.backbones.layers.cache import _tensors

from . import oracle
from .cases import all_cases


def decoders() -> list[oracle.Case]:
    return [
        case
        for case in all_cases()
        if isinstance(inputs := case.make_inputs(), dict)
        and inputs.keys() - {"position_ids"} == {"token_ids", "padding_mask"}
        and on_meta(case).cache_shapes
    ]


@functools.cache
def on_meta(case: oracle.Case) -> Any:
    with torch.device("meta"):
        return getattr(keras_hub_torch.models, case.cls)(**case.config)


def model_of(case: oracle.Case, **kwargs: Any) -> Any:
    """The case's model with weights far from their initial values, and in one mode for all the
    lengths tried (Phi-3 has two).
    """
    config = dict(case.config)
    if "pretraining_sequence_length" in config:
        config["pretraining_sequence_length"] = 64
    config |= kwargs
    model = getattr(keras_hub_torch.models, case.cls)(**config).eval()
    generator = torch.Generator().manual_seed(len(case.id))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


CASES = decoders()
every = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
FIRSTS = list({case.cls: case for case in reversed(CASES)}.values())
firsts = pytest.mark.parametrize("case", FIRSTS, ids=[case.id for case in FIRSTS])


def long_inputs(case: oracle.Case, batch: int = 3, length: int = 11) -> torch.Tensor:
    ids = np.concatenate([case.inputs(case.rng)["token_ids"].ravel(), np.arange(40)])
    ids = np.resize(ids % on_meta(case).vocabulary_size, (batch, length))
    return torch.from_numpy(ids).long()


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def close(mine: torch.Tensor, expected: torch.Tensor) -> None:
    oracle.assert_close(mine, oracle.named(expected))


@every
@pytest.mark.parametrize("sizes", [(11,), (1,) * 11, (5, 1, 1, 3, 1), (0, 6, 5)], ids=str)
def test_in_pieces(case: oracle.Case, sizes: tuple[int, ...]) -> None:
    model, ids = model_of(case), long_inputs(case)
    expected = model(ids)
    cache = model.make_cache(3, 13)
    start = 0
    for size in filter(None, sizes):
        index = start if sizes[0] else torch.tensor(start)
        piece = ids[:, start : start + size]
        close(
            model(piece, cache=cache, cache_update_index=index), expected[:, start : start + size]
        )
        start += size


@every
def test_rows_of_different_lengths(case: oracle.Case) -> None:
    """Padding after the prompts is written over, row by row."""
    model, ids = model_of(case), long_inputs(case)
    lengths = torch.tensor([7, 2, 4])
    expected = model(ids)
    cache = model.make_cache(3, 16)
    mask = torch.arange(7) < lengths[:, None]
    prompt = model(ids[:, :7] * mask, mask, cache=cache)
    for row, length in enumerate(lengths):
        close(prompt[row, :length], expected[row, :length])
    for size in (1, 1, 2):
        places = lengths[:, None] + torch.arange(size)
        out = model(ids.gather(1, places), cache=cache, cache_update_index=lengths)
        close(out, torch.stack([expected[row, places[row]] for row in range(3)]))
        lengths = lengths + size


@every
def test_padding_stays_hidden(case: oracle.Case) -> None:
    """Padding before and in a prompt, and in a later piece."""
    model, ids = model_of(case), long_inputs(case)
    mask = torch.ones(3, 11, dtype=torch.bool)
    mask[0, :3] = mask[1, 2:4] = mask[2, 6] = False
    expected = model(ids, mask)
    cache = model.make_cache(3, 11)
    for start, end in ((0, 5), (5, 8), (8, 9), (9, 11)):
        piece = slice(start, end)
        out = model(ids[:, piece], mask[:, piece], cache=cache, cache_update_index=start)
        seen = mask[:, piece]
        close(out[seen], expected[:, piece][seen])
        assert out.isfinite().all()


@firsts
def test_used_again(case: oracle.Case) -> None:
    model, ids = model_of(case), long_inputs(case)
    cache = model.make_cache(3, 11)
    model(ids, ids > 5, cache=cache)
    close(model(ids[:, :4], cache=cache), model(ids[:, :4]))
    out = model(ids[:, 4:6], cache=cache, cache_update_index=4)
    close(out, model(ids[:, :6])[:, 4:])


@firsts
def test_rows_change_places(case: oracle.Case) -> None:
    """Within a cache, and into a larger one."""
    model, ids = model_of(case), long_inputs(case)
    cache, larger = model.make_cache(3, 11), model.make_cache(4, 11)
    model(ids[:, :6], cache=cache)
    places = [tensor.data_ptr() for tensor in _tensors(cache)]
    rows = torch.tensor([2, 0, 2, 1])
    larger.take(rows, cache)
    cache.take(rows[:3])
    assert [tensor.data_ptr() for tensor in _tensors(cache)] == places
    expected = model(ids)[rows, 6:]
    for i in range(6, 11):
        tokens = ids[rows, i : i + 1]
        for memory, batch in ((cache, 3), (larger, 4)):
            out = model(tokens[:batch], cache=memory, cache_update_index=i)
            close(out[:, 0], expected[:batch, i - 6])


@firsts
def test_bfloat16(case: oracle.Case) -> None:
    model, ids = model_of(case, dtype="bfloat16"), long_inputs(case)
    cache = model.make_cache(3, 11)
    assert cache.layers
    exact = model_of(case)(ids)
    rounded = model(ids)
    pieces = [
        model(ids[:, i : i + 1], cache=cache, cache_update_index=torch.tensor(i)) for i in range(11)
    ]
    error = (torch.cat(pieces, dim=1).float() - exact).square().mean()
    assert error.sqrt() <= 1.5 * (rounded.float() - exact).square().mean().sqrt()


@firsts
def test_one_compilation(case: oracle.Case) -> None:
    torch._dynamo.reset()
    counters.clear()
    model, ids = model_of(case), long_inputs(case)
    expected = model(ids)
    cache = model.make_cache(3, 11)
    model(ids[:, :4], cache=cache)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for i in range(4, 11):
        index = torch.tensor(i)
        out = compiled(ids[:, i : i + 1], cache=cache, cache_update_index=index)
        close(out, expected[:, i : i + 1])
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_beyond_the_length_of_pretraining() -> None:
    case = next(case for case in CASES if case.id == "phi3-long")
    model, ids = model_of(case, pretraining_sequence_length=4), long_inputs(case)
    cache = model.make_cache(3, 11)
    close(model(ids[:, :5], cache=cache), model(ids[:, :5]))
    for i in range(5, 11):
        out = model(ids[:, i : i + 1], cache=cache, cache_update_index=i)
        close(out[:, 0], model(ids[:, : i + 1])[:, -1])


def test_windows_keep_their_size() -> None:
    case = next(case for case in CASES if case.id == "mistral-window")
    cache = model_of(case).make_cache(2, 100)
    assert {layer.keys.shape[2] for layer in cache.layers} == {case.config["sliding_window"]}


def test_what_is_refused() -> None:
    case = next(case for case in CASES if case.cls == "GPT2Backbone")
    model, ids = model_of(case), long_inputs(case)
    longest = case.config["max_sequence_length"]
    with pytest.raises(ValueError, match=f"max_length is {longest + 1}.* has {longest}"):
        model.make_cache(1, longest + 1)
    cache = model.make_cache(3, 5)
    with pytest.raises(ValueError, match="do not fit a cache of 5"):
        model(ids, cache=cache)
    with pytest.raises(ValueError, match="Positions 4 to 5 do not fit"):
        model(ids[:, :2], cache=cache, cache_update_index=4)
    with pytest.raises(ValueError, match="for 3 rows, the input has 2"):
        model(ids[:2, :2], cache=cache)
    with pytest.raises(TypeError, match="must be an integer, a tensor of one"):
        model(ids[:, :2], cache=cache, cache_update_index=torch.zeros(2, dtype=torch.long))
    with pytest.raises(TypeError, match="make_cache"):
        model(ids[:, :2], cache={})
    bert = keras_hub_torch.models.BertBackbone(5, 1, 1, 4, 4)
    with pytest.raises(NotImplementedError, match="BertBackbone has no cache"):
        bert.make_cache(1, 4)


def test_dtype_and_device_of_the_cache() -> None:
    model = model_of(FIRSTS[0])
    cache = model.make_cache(1, 4, dtype=torch.bfloat16, device="meta")
    assert {layer.keys.dtype for layer in cache.layers} == {torch.bfloat16}
    assert cache.visible.is_meta
