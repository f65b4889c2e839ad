"""Qwen3.5 with images, and in its published files: what the tests of all families do not see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from keras_hub_torch.models import Backbone, Qwen3_5Backbone
from keras_hub_torch.presets.verifying import verify_preset

from . import oracle
from .cases.qwen3_5 import CASES, SMALL
from .checkpoints import qwen3_5

CASE = next(case for case in CASES if case.id == "qwen3.5-videos")
CONFIG = {**CASE.config, "num_layers": 2, "layer_types": ["linear_attention", "full_attention"]}


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    model = Qwen3_5Backbone(**CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    return oracle.tensors(CASE.make_inputs())


@torch.no_grad()
def test_images_in_pieces_with_a_cache(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """One row; the tokens of its images all lie in the second piece."""
    one = {name: value[:1] for name, value in inputs.items()}
    tokens = one["vision_indices"].shape[1]
    length = tokens + 5
    ids = torch.arange(length)[None]
    images = {name: one[name] for name in ("pixel_values", "image_grid_thw")}
    places = torch.arange(tokens)[None]
    whole = model(token_ids=ids, **images, vision_indices=places + 3)
    cache = model.make_cache(1, length)
    parts = [
        model(token_ids=ids[:, :3], cache=cache, cache_update_index=0),
        model(
            token_ids=ids[:, 3 : 3 + tokens],
            **images,
            vision_indices=places,
            cache=cache,
            cache_update_index=3,
        ),
        model(token_ids=ids[:, 3 + tokens :], cache=cache, cache_update_index=3 + tokens),
    ]
    oracle.assert_close(torch.cat(parts, dim=1), oracle.named(whole))


@torch.no_grad()
def test_left_out_inputs(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    text = {name: inputs[name] for name in ("token_ids", "padding_mask")}
    blind = Qwen3_5Backbone(**{**CONFIG, "vision_encoder": None}).eval()
    blind.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("vision_encoder.")}
    )
    expected = blind(text)
    assert torch.equal(model(text), expected)
    none = {name: inputs[name][:, :0] for name in inputs.keys() - text.keys()}
    assert torch.equal(model({**text, **none}), expected)
    with pytest.raises(ValueError, match="pixel_values need"):
        model(**text, pixel_values=inputs["pixel_values"])


@torch.no_grad()
def test_frames_are_masked_where_they_cannot_be_split(
    model: Any, inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled code does not know how long they are."""
    images = inputs["pixel_values"], inputs["image_grid_thw"]
    expected = model.vision_encoder.forward(*images)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    oracle.assert_close(model.vision_encoder.forward(*images), oracle.named(expected))


def test_images_that_do_not_fit(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    grid = inputs["image_grid_thw"]
    with pytest.raises(ValueError, match=r"image_grid_thw has \d+ patches, but pixel_values has"):
        model({**inputs, "image_grid_thw": grid + torch.tensor([1, 0, 0])})
    odd = torch.tensor([[[1, 1, 4]]])
    with pytest.raises(ValueError, match="sides divisible by 2"):
        model.vision_encoder(inputs["pixel_values"][:1, :4], odd)
    with pytest.raises(ValueError, match=r"vision_indices has \d+ places, but pixel_values give"):
        model({**inputs, "vision_indices": inputs["vision_indices"][:, 1:]})


def test_the_encoder_stays_float32() -> None:
    model = Qwen3_5Backbone(**CONFIG, dtype="bfloat16")
    assert {p.dtype for p in model.vision_encoder.parameters()} == {torch.float32}
    assert model.dtype == torch.bfloat16


def test_published_files(tmp_path: Path) -> None:
    """They have the experts of a layer in two tensors, and weights that predict further tokens."""
    checkpoint = next(c for c in qwen3_5.CHECKPOINTS if c.id == "qwen3.5-moe-vision")
    checkpoint.save(tmp_path)
    plain = Backbone.from_preset(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for layer in range(2):
        prefix = f"model.language_model.layers.{layer}.mlp.experts."
        gate, up, down = (
            torch.stack([tensors.pop(f"{prefix}{i}.{name}_proj.weight") for i in range(5)])
            for name in ("gate", "up", "down")
        )
        tensors |= {f"{prefix}gate_up_proj": torch.cat((gate, up), 1), f"{prefix}down_proj": down}
    tensors["mtp.fc.weight"] = torch.zeros(2, 2)
    save_file(tensors, path, {"format": "pt"})
    model = Backbone.from_preset(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert verify_preset(tmp_path).ignored == ["mtp.fc.weight"]
    numpy = {name: value.numpy() for name, value in checkpoint.make_inputs().items()}
    theirs = keras_hub.models.Backbone.from_preset(str(tmp_path))
    with torch.no_grad():
        oracle.assert_close(model(oracle.tensors(numpy)), oracle.keras_outputs(theirs, numpy))
    del tensors["model.language_model.layers.1.mlp.experts.down_proj"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: model.language_model.layers.1.mlp.experts."):
        Backbone.from_preset(tmp_path)


def test_the_language_model_only(tmp_path: Path) -> None:
    checkpoint = next(c for c in qwen3_5.CHECKPOINTS if c.id == "qwen3.5-vision")
    checkpoint.save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "language_model_only": True}))
    with pytest.raises(ValueError, match=r"superfluous: model\.visual"):
        Backbone.from_preset(tmp_path)
    path = tmp_path / "model.safetensors"
    text = {name: value for name, value in load_file(path).items() if "visual" not in name}
    save_file(text, path, {"format": "pt"})
    model = Backbone.from_preset(tmp_path)
    assert model.vision_encoder is None
    model.export_to_transformers(tmp_path / "text")
    assert json.loads((tmp_path / "text/config.json").read_text())["model_type"] == "qwen3_5_text"


def test_types_of_layers_by_default() -> None:
    """They are in the configuration. Where none turns anything, heads may have any dimensions."""
    config = {**SMALL, "head_dim": 4}
    theirs = keras_hub.models.Qwen3_5Backbone(**{**config, "num_layers": 2})
    model = Qwen3_5Backbone(**{**config, "num_layers": 2})
    assert model.get_config()["layer_types"] == theirs.get_config()["layer_types"]
    assert model(token_ids=torch.arange(3)[None]).shape == (1, 3, 12)
    with pytest.raises(ValueError, match="an even number of dimensions, not 1"):
        Qwen3_5Backbone(**config)
