"""Gemma 3 with images: what the tests of all families do not see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from keras_hub_torch import generate
from keras_hub_torch.models import Gemma3Backbone, Gemma3VisionEncoder

from . import oracle
from .cases.gemma3 import CASES

CONFIG = next(case for case in CASES if case.id == "gemma3-images-window").config


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    model = Gemma3Backbone(**CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    case = next(case for case in CASES if case.id == "gemma3-images-window")
    return oracle.tensors(case.make_inputs())


@torch.no_grad()
def test_images_then_tokens_with_a_cache(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    inputs.pop("padding_mask")
    whole = model(inputs)
    length, start = whole.shape[1], whole.shape[1] - 3
    cache = model.make_cache(len(whole), length)
    first = {name: v[:, :start] if v.shape[1] == length else v for name, v in inputs.items()}
    assert not inputs["vision_mask"][:, start:].any()
    parts = [model(first, cache=cache, cache_update_index=0)]
    for i in range(start, length):
        token = inputs["token_ids"][:, i : i + 1]
        parts.append(model(token_ids=token, cache=cache, cache_update_index=i))
    oracle.assert_close(torch.cat(parts, 1), oracle.named(whole))
    with pytest.raises(ValueError, match="Images belong to the first call"):
        model(first, cache=cache, cache_update_index=torch.tensor(1))


@torch.no_grad()
def test_generate(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Places of images move with the tokens that padding before them is taken from."""
    row = {name: value[:1] for name, value in inputs.items() if name != "padding_mask"}
    ids = row["token_ids"]
    length, more = ids.shape[1], 3
    expected = ids
    for _ in range(more):
        masks = {"vision_mask": F.pad(row["vision_mask"], (0, expected.shape[1] - length))}
        hidden = model({**row, **masks, "token_ids": expected})
        next = model.token_embedding(hidden[:, -1], reverse=True).argmax(-1, keepdim=True)
        expected = torch.cat((expected, next), dim=1)
    assert torch.equal(generate(model, row, max_new_tokens=more)["token_ids"], expected)
    padded = {
        "token_ids": F.pad(ids, (2, 0)),
        "padding_mask": F.pad(torch.ones_like(ids), (2, 0)),
        "images": row["images"],
        "vision_indices": row["vision_indices"] + 2 * (row["vision_indices"] > 0),
        "vision_mask": F.pad(row["vision_mask"], (2, 0)),
    }
    found = generate(model, padded, max_new_tokens=more)["token_ids"]
    assert torch.equal(found[:, 2:], expected)
    hidden = {**padded, "padding_mask": F.pad(torch.ones_like(ids[:, 4:]), (6, 0))}
    with pytest.raises(ValueError, match="vision_indices has places of padding"):
        generate(model, hidden, max_new_tokens=more)
    far = {**padded, "vision_indices": padded["vision_indices"] + 20}
    with pytest.raises(ValueError, match="vision_indices must be from 0 to 18"):
        generate(model, far, max_new_tokens=more)


@torch.no_grad()
def test_left_out_inputs(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    expected = model(inputs)
    del inputs["vision_mask"]
    assert torch.equal(model(inputs), expected)  # the indices say it, too
    text = {name: inputs[name] for name in ("token_ids", "padding_mask")}
    config = {**CONFIG, "vision_encoder": None}
    blind = Gemma3Backbone(**config).eval()
    blind.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("vision_encoder.")}
    )
    assert torch.equal(model(text), blind(text))
    assert blind.default_lora_layer_names() == ["query_dense", "value_dense", "query", "value"]
    assert model.default_lora_layer_names()[-2:] == ["query_proj", "value_proj"]
    with pytest.raises(ValueError, match="images needs vision_encoder, which this"):
        blind(token_ids=text["token_ids"], images=inputs["images"])


def test_wrong_images(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"13 × 13 × 3, but .* are 14 × 13 × 3"):
        model({**inputs, "images": torch.zeros(6, 2, 14, 13, 3)})
    with pytest.raises(ValueError, match="vision_indices has 8 places a row, but images give 4"):
        model({**inputs, "images": inputs["images"][:, :1]})
    del inputs["vision_indices"]
    with pytest.raises(ValueError, match="images need vision_indices"):
        model(inputs)


def test_the_vision_encoder_keeps_its_dtype() -> None:
    encoder = Gemma3VisionEncoder(**CONFIG["vision_encoder"]["config"], dtype="bfloat16")
    assert encoder.dtype == torch.float32
    for dtype in ("bfloat16", "mixed_bfloat16", "float16"):
        model = Gemma3Backbone(**{**CONFIG, "vision_encoder": encoder}, dtype=dtype)
        assert model.vision_encoder is encoder
        assert {p.dtype for p in encoder.parameters()} == {torch.float32}
        assert all(getattr(m, "compute_dtype", None) is None for m in encoder.modules())
        assert model.token_embedding.weight.dtype == model.dtype_policy.variable_dtype
        again = Gemma3Backbone.from_config(model.get_config())
        assert again.get_config() == model.get_config()


def test_other_models_are_refused() -> None:
    text = Gemma3Backbone(**{**CONFIG, "vision_encoder": None})
    with pytest.raises(TypeError, match=r"must be Gemma3VisionEncoder \| None, not Gemma3Backbone"):
        Gemma3Backbone(**{**CONFIG, "vision_encoder": text})
    config = {"registered_name": "keras_hub>Gemma3Backbone", "config": text.get_config()}
    with pytest.raises(TypeError, match="of a Gemma3Backbone; it must be of Gemma3VisionEncoder"):
        Gemma3Backbone(**{**CONFIG, "vision_encoder": config})
