"""BLIP-2: what the tests of all families do not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras_hub
import pytest
import torch
import transformers

from keras_hub_torch import generate
from keras_hub_torch.models import (
    Backbone,
    BertBackbone,
    BLIP2Backbone,
    BLIP2CustomOPT,
    BLIP2FlanT5,
)

from . import oracle
from .cases.blip2 import CASES, config, flan_t5, opt, qformer, tower
from .checkpoints.blip2 import BLIP2, CHECKPOINTS, besides

OPT = CASES[0].config
IDS = torch.arange(8).view(2, 4)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return BLIP2Backbone(**OPT).eval()


@torch.no_grad()
def test_parts_alone(model: Any) -> None:
    """The parts compute what the whole does, and a model of text what one with images does without
    them.
    """
    images = torch.rand(2, 9, 9, 3)
    features = model.qformer(model.vision_encoder(images))
    assert features.shape == (2, model.num_query_tokens, model.qformer_hidden_dim)
    alone = model.language_model(IDS, qformer_features=features)
    assert torch.equal(alone, model(IDS, images=images))
    blind: Any = BLIP2CustomOPT(**opt(num_query_tokens=0)["config"]).eval()
    state = model.language_model.state_dict()
    blind.load_state_dict({k: v for k, v in state.items() if "language_projection" not in k})
    assert torch.equal(model(IDS), blind(IDS))
    text = BLIP2Backbone(None, None, blind).eval()
    assert torch.equal(model(IDS), text(IDS))
    assert not text.multimodal
    assert text.num_query_tokens == text.qformer_hidden_dim == 0
    with pytest.raises(ValueError, match="images needs vision_encoder, which this BLIP2Backbone"):
        text(IDS, images=images)
    with pytest.raises(ValueError, match="qformer_features needs num_query_tokens, which this"):
        blind(IDS, qformer_features=features)


def test_what_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match=r"9 × 9 × 3, but .* are 9 × 8 × 3"):
        model(IDS, images=torch.rand(2, 9, 8, 3))
    with pytest.raises(ValueError, match="images has batch 3, but token_ids has batch 2"):
        model(IDS, images=torch.rand(3, 9, 9, 3))
    with pytest.raises(ValueError, match="are 2 tokens of an image, not num_query_tokens=3"):
        model.language_model(IDS, qformer_features=torch.rand(2, 2, 8))
    long = torch.zeros(1, 21, dtype=torch.long)
    with pytest.raises(ValueError, match=r"token_ids has length 21, but .* room for 20"):
        model(long, images=torch.rand(1, 9, 9, 3))
    with pytest.raises(ValueError, match="max_length is 24, but the position table has 23"):
        model.make_cache(1, 24)
    for parts, message in (
        ((None, qformer(), opt()), "vision_encoder and qformer go together"),
        ((tower(9, 4), qformer(vision_dim=9), opt()), "vision_dim=9, but .* has 10"),
        ((tower(9, 4), qformer(), opt(num_query_tokens=2)), "num_query_tokens=2, but .* has 3"),
        ((tower(9, 4), qformer(), opt(qformer_hidden_dim=7)), "qformer_hidden_dim=7, but .* has 8"),
        ((tower(3, 4), qformer(), opt()), "image_size=3 must be at least 4"),
    ):
        with pytest.raises(ValueError, match=message):
            BLIP2Backbone(*parts)
    bert = BertBackbone(5, 1, 1, 4, 4)
    with pytest.raises(TypeError, match="vision_encoder must be BLIP2VisionEncoder"):
        BLIP2Backbone(bert, None, opt())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="of a BLIP2QFormer; it must be of BLIP2CustomOPT or"):
        BLIP2Backbone(None, None, qformer())  # type: ignore[arg-type]


def test_projections() -> None:
    """Keras's layers in their serialized form."""
    layers = keras_hub.models.BLIP2FlanT5(**flan_t5()["config"]).get_config()
    dense = layers["language_projection"]
    unbiased = {**dense, "config": {**dense["config"], "use_bias": False, "name": "mine"}}
    case = oracle.Case(
        "blip2-projection",
        "BLIP2Backbone",
        config(tower(9, 4), qformer(), opt(language_projection=unbiased)),
        CASES[0].inputs,
    )
    model: Any = BLIP2Backbone(**case.config)
    assert model.language_model.language_projection.bias is None
    theirs = keras_hub.models.BLIP2Backbone(**case.keras_config).language_model.get_config()
    mine, theirs = model.language_model.get_config(), theirs["language_projection"]["config"]
    assert mine["language_projection"]["config"] == theirs
    for change, message in (
        ({"activation": "relu"}, "language_projection must be linear, not 'relu'"),
        ({"units": 7}, "language_projection gives a width of 7; it must be 12"),
    ):
        other = {**dense, "config": {**dense["config"], **change}}
        with pytest.raises(ValueError, match=message):
            BLIP2CustomOPT(**opt(language_projection=other)["config"])
    with pytest.raises(ValueError, match="must be a Dense, or an EinsumDense of the last axis"):
        BLIP2CustomOPT(**opt(language_projection={"class_name": "Conv1D", "config": {}})["config"])
    with pytest.raises(ValueError, match="must be a serialized layer of Keras, with its config"):
        BLIP2CustomOPT(**opt(language_projection={"config": [1]})["config"])


@torch.no_grad()
def test_the_head_of_flan_t5(tmp_path: Path) -> None:
    """A model has it if a file has it."""
    theirs = oracle.keras_model(CASES[1])
    theirs.language_model.lm_head.build((1, 1, 12))
    theirs.save_to_preset(str(tmp_path / "theirs"))
    model: Any = Backbone.from_preset(tmp_path / "theirs")
    hidden = torch.rand(2, 3, 12)
    head = theirs.language_model.lm_head
    oracle.assert_close(model.language_model.lm_head(hidden), oracle.named(head(hidden)))
    model.save_to_preset(tmp_path / "ours")
    again: Any = Backbone.from_preset(tmp_path / "ours")
    assert torch.equal(again.language_model.lm_head.weight, model.language_model.lm_head.weight)
    plain: Any = BLIP2Backbone(**CASES[1].config)
    assert plain.language_model.lm_head is None
    plain.load_state_dict(model.state_dict())
    inputs = CASES[1].make_inputs()
    oracle.assert_close(plain.eval()(inputs), oracle.keras_outputs(theirs, inputs))
    fresh: Any = BLIP2FlanT5(**flan_t5()["config"])
    fresh.build_head()
    assert fresh.lm_head(hidden).shape == (2, 3, 31)
    inputs = {k: torch.as_tensor(v) for k, v in inputs.items() if k != "decoder_padding_mask"}
    ids = inputs["decoder_token_ids"]
    for _ in range(3):
        logits = model.logits(model({**inputs, "decoder_token_ids": ids})[:, -1])
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(generate(model, inputs, max_new_tokens=3)["token_ids"], ids)
    first = {"decoder_token_ids": ids[:, :1], "images": inputs["images"]}
    cache = model.make_cache(len(ids), 9)
    model({**inputs, "decoder_token_ids": ids[:, :1]}, cache=cache)
    with pytest.raises(ValueError, match="images belong to encoder_token_ids"):
        model(first, cache=cache, cache_update_index=1)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda one: one.id)
@torch.no_grad()
def test_logits_of_exports(checkpoint: Any, tmp_path: Path) -> None:
    model: Any = Backbone.from_preset(checkpoint.save(tmp_path / "theirs"))
    model.export_to_transformers(tmp_path / "ours")
    inputs = checkpoint.make_inputs()
    theirs = transformers.Blip2ForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    images = BLIP2.forms["images"](inputs["images"])
    expected = theirs(**besides(inputs), pixel_values=images).logits
    hidden = model(inputs)
    if model.is_encoder_decoder:
        logits = model.language_model.lm_head(hidden)
    else:
        logits = model.token_embedding(hidden, reverse=True)
    oracle.assert_close(logits, oracle.named(expected))


def test_the_tanh_form_of_flan_t5(tmp_path: Path) -> None:
    """As published; KerasHub computes the exact form."""
    CHECKPOINTS[1].save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("gated-gelu_python", "gated-gelu"))
    with pytest.warns(UserWarning, match="with gelu's tanh form; as in KerasHub"):
        model = Backbone.from_preset(tmp_path)
    theirs = keras_hub.models.Backbone.from_preset(str(tmp_path))
    inputs = {name: value.numpy() for name, value in CHECKPOINTS[1].make_inputs().items()}
    with torch.no_grad():
        oracle.assert_close(model(inputs), oracle.keras_outputs(theirs, inputs))
