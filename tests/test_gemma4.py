"""Gemma 4: what the tests of all families do not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch._dynamo.utils import counters
from torch.nn.functional import pad

from keras_hub_torch.generation import generate
from keras_hub_torch.models import Backbone, Gemma4AudioEncoder, Gemma4Backbone

from . import oracle
from .cases.gemma4 import CASES, PRESETS, SMALL, TEXT, vision_encoder
from .checkpoints.gemma4 import TEXT as TEXT_CONFIG

BOTH = CASES[0]
MASKS = ("vision_mask", "audio_mask")


def model_of(**config: Any) -> Any:
    model = Gemma4Backbone(**{**BOTH.config, "sliding_window_size": 4, **config}).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return model_of()


@pytest.fixture
def given() -> dict[str, torch.Tensor]:
    """Of three rows, without padding."""
    inputs = {name: value[:3] for name, value in oracle.tensors(BOTH.make_inputs()).items()}
    return {name: v for name, v in inputs.items() if name not in ("padding_mask", "position_ids")}


def beginning(given: dict[str, torch.Tensor], length: int) -> dict[str, torch.Tensor]:
    lengthy = ("token_ids", *MASKS)
    return {name: value[:, :length] if name in lengthy else value for name, value in given.items()}


def longer(given: dict[str, torch.Tensor], token_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """With these ids, of which the first are the given ones."""
    more = token_ids.shape[1] - given["token_ids"].shape[1]
    return {
        **given,
        **{name: pad(given[name], (0, more)) for name in MASKS},
        "token_ids": token_ids,
    }


@torch.no_grad()
def test_decoding_behind_images_and_sound(model: Any, given: dict[str, torch.Tensor]) -> None:
    ids = torch.cat((given["token_ids"], given["token_ids"].flip(1)), dim=1)
    expected = model(longer(given, ids))
    cache = model.make_cache(3, 32)
    oracle.assert_close(model(given, cache=cache), oracle.named(expected[:, :15]))
    start = 15
    for size in (1, 3, 1, 5):
        piece = slice(start, start + size)
        out = model(ids[:, piece], cache=cache, cache_update_index=torch.tensor(start))
        oracle.assert_close(out, oracle.named(expected[:, piece]))
        start += size
    with pytest.raises(ValueError, match="Images belong to the first call"):
        model(beginning(given, 15), cache=cache, cache_update_index=1)


@torch.no_grad()
def test_rows_of_different_lengths(model: Any, given: dict[str, torch.Tensor]) -> None:
    torch._dynamo.reset()
    counters.clear()
    lengths = torch.tensor([15, 13, 14])
    mask = torch.arange(15) < lengths[:, None]
    cache = model.make_cache(3, 20)
    model({**given, "padding_mask": mask}, cache=cache)
    step = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
    more = torch.tensor([[3, 5], [7, 2], [1, 4]])
    outs = [step(more[:, i : i + 1], cache=cache, cache_update_index=lengths + i) for i in range(2)]
    assert counters["stats"]["unique_graphs"] == 1
    for row, length in enumerate(lengths):
        alone = {name: value[row : row + 1] for name, value in beginning(given, length).items()}
        ids = torch.cat((alone["token_ids"], more[row : row + 1]), dim=1)
        expected = model(longer(alone, ids))[0, length:]
        oracle.assert_close(torch.cat(outs, dim=1)[row], oracle.named(expected))


def test_generation(model: Any, given: dict[str, torch.Tensor]) -> None:
    found = generate(model, given, max_new_tokens=3)["token_ids"]
    ids = given["token_ids"].long()
    with torch.no_grad():
        for _ in range(3):
            hidden = model(longer(given, ids))[:, -1]
            best = model.token_embedding(hidden, reverse=True).argmax(-1)
            ids = torch.cat((ids, best[:, None]), dim=1)
    assert torch.equal(found, ids)
    # Before a row's tokens there may be padding.
    padded = {n: pad(given[n], (2, 0)) for n in ("token_ids", *MASKS)}
    places = {n: given[n] + 2 * (given[n] > 0) for n in ("vision_indices", "audio_indices")}
    padding = pad(torch.ones_like(given["token_ids"]), (2, 0))
    rows = {**given, **padded, **places, "padding_mask": padding}
    assert torch.equal(generate(model, rows, max_new_tokens=3)["token_ids"][:, 2:], ids)


def test_shared_keys_take_no_memory() -> None:
    cache = Gemma4Backbone(**TEXT).make_cache(2, 9)
    shapes = [tuple(layer.keys.shape[1:]) for layer in cache.layers]
    assert shapes == [(3, 4, 6), (2, 9, 8)]


@torch.no_grad()
def test_what_may_be_left_out(model: Any, given: dict[str, torch.Tensor]) -> None:
    expected = oracle.named(model(given))
    oracle.assert_close(model({n: v for n, v in given.items() if n not in MASKS}), expected)
    text = {"token_ids": given["token_ids"]}
    nothing = {**text, "pixel_values": torch.zeros(3, 0, 4, 3)}
    oracle.assert_close(model(nothing), oracle.named(model(text)))
    # Tokens without a place are left out, and places without a token are padding.
    short = {name: given[name][:, :, :14] for name in ("audio_mel", "audio_mel_mask")}
    fewer = model({**given, **short})
    surplus = {"audio_indices": pad(given["audio_indices"], (0, 3))}
    oracle.assert_close(model({**given, **short, **surplus}), oracle.named(fewer))


def test_what_is_refused(model: Any, given: dict[str, torch.Tensor]) -> None:
    seen, heard = given["vision_indices"], given["audio_indices"]
    outside = torch.tensor([1, 2, 3, 4, 5, 16]).expand(3, -1)
    for name, value, message in (
        ("vision_indices", None, "pixel_values need pixel_position_ids and vision_indices"),
        ("audio_mel_mask", None, "audio_mel needs audio_mel_mask and audio_indices"),
        ("vision_indices", seen[:, :5], "vision_indices has 5 places for 2 times 3 tokens"),
        ("vision_indices", pad(seen, (0, 2), value=1), "has 8 places, but there are 2 times 3"),
        ("audio_indices", pad(heard, (0, 2), value=1), "has 6 places, but there are 1 times 5"),
        ("vision_indices", outside, "vision_indices must be from 0 to 14; there are 1 to 16"),
        ("audio_indices", -heard, "audio_indices must be from 0 to 14"),
        ("pixel_position_ids", given["pixel_position_ids"] + 7, "must be from 0 to 8, or -1"),
        ("pixel_values", given["pixel_values"][..., :2], "must have 3 numbers a patch"),
        ("audio_mel", given["audio_mel"][..., :6], r"must be \[batch, clips, frames, 7\]"),
    ):
        with pytest.raises(ValueError, match=message):
            model({**given, name: value})
    text = Gemma4Backbone(**SMALL)
    with pytest.raises(ValueError, match="pixel_values needs vision_encoder"):
        text(token_ids=given["token_ids"], pixel_values=given["pixel_values"])
    with pytest.raises(ValueError, match="audio_mel needs audio_encoder"):
        text(token_ids=given["token_ids"], audio_mel=given["audio_mel"])


def test_configurations_that_are_none() -> None:
    for changes, message in (
        ({"num_kv_shared_layers": 3}, "num_kv_shared_layers is 3, but there are 2 layers"),
        ({"enable_moe_block": True}, "num_experts and expert_intermediate_dim"),
        ({"layer_types": ["full_attention"]}, "layer_types must be 2"),
        ({"head_dim": 5}, "even number"),
        ({"vision_encoder": vision_encoder(head_dim=3)}, "must be hidden_dim=8"),
        ({"is_embedding_model": True}, "pooling_intermediate_dim and embedding_dim"),
    ):
        with pytest.raises(ValueError, match=message):
            Gemma4Backbone(**{**SMALL, **changes})
    for sizes in ([[2, 3], [3, 3]], [[3, 3], [1, 3]]):
        with pytest.raises(ValueError, match="sscp_kernel_sizes must be odd"):
            Gemma4AudioEncoder(sscp_kernel_sizes=sizes)
    with pytest.raises(ValueError, match="hidden_size=6 must be divisible"):
        Gemma4AudioEncoder(hidden_size=6, num_heads=4)


def test_assistant() -> None:
    """It is KerasHub's backbone, which cannot be called by itself there either."""
    config = {**PRESETS["gemma4_instruct_2b_assistant"], "vocabulary_size": 11, "hidden_dim": 16}
    assistant = Gemma4Backbone(**config)
    assert not [name for name in assistant.state_dict() if ".key" in name or ".value" in name]
    assert [block.attention.query.out_features for block in assistant.transformer_layers] == [
        1024,
        1024,
        1024,
        2048,
    ]
    with pytest.raises(ValueError, match="keys and values of another model"):
        assistant(torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(NotImplementedError, match="has no cache"):
        assistant.make_cache(1, 4)
    with pytest.raises(NotImplementedError, match="has another model's keys and values"):
        generate(assistant, [1], 4)


def test_assistants_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers 5.23 takes its own assistants for mistakes.
    modes = property(lambda config: ["reuse"] * config.num_hidden_layers)
    monkeypatch.setattr(transformers.Gemma4TextConfig, "kv_sharing_modes", modes)
    text = {
        **{name: value for name, value in TEXT_CONFIG.items() if name != "layer_types"},
        "vocab_size_per_layer_input": 0,
        "num_kv_shared_layers": 4,
    }
    config = transformers.Gemma4AssistantConfig(text_config=text, backbone_hidden_size=12)
    theirs = transformers.Gemma4AssistantForCausalLM(config)
    theirs.save_pretrained(tmp_path / "theirs")
    model: Any = Backbone.from_preset(tmp_path / "theirs")
    assert model.num_kv_shared_layers == model.num_layers == 4
    query = theirs.model.layers[3].self_attn.q_proj.weight
    assert torch.equal(model.transformer_layers[3].attention.query.weight, query)
    with pytest.raises(ValueError, match="projections that are no part of a backbone"):
        model.export_to_transformers(tmp_path / "ours")


def test_towers_alone(model: Any, given: dict[str, torch.Tensor]) -> None:
    mel, mask = given["audio_mel"], given["audio_mel_mask"]
    tokens = model.audio_encoder(mel, mask)
    oracle.assert_close(model.audio_encoder(mel[:, 0], mask[:, 0]), oracle.named(tokens[:, 0]))
    assert tokens.shape[2] == model.audio_encoder.count_tokens(mel.shape[2])
    half = Gemma4Backbone(**BOTH.config, dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.vision_encoder.dtype == half.audio_encoder.dtype == torch.float32


def test_no_rows(model: Any, given: dict[str, torch.Tensor]) -> None:
    nothing = {name: value[:0] for name, value in given.items()}
    assert model(nothing).shape == (0, *given["token_ids"].shape[1:], model.hidden_dim)
