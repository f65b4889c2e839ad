"""PaliGemma: what the tests of all families do not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from keras_hub_torch.models import Backbone, PaliGemmaBackbone

from . import oracle
from .cases.pali_gemma import SMALL
from .checkpoints.pali_gemma import CHECKPOINTS, PALI_GEMMA, TOKENS, text


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return PaliGemmaBackbone(**SMALL).eval()


@torch.no_grad()
def test_what_may_be_left_out(model: Any) -> None:
    ids, images = torch.arange(8).view(2, 4), torch.rand(2, 8, 8, 3)
    full = {
        "padding_mask": torch.ones_like(ids),
        "response_mask": torch.zeros_like(ids),
        "images": images,
    }
    oracle.assert_close(model(ids, images=images), oracle.named(model(ids, **full)))
    assert model(ids).shape == (2, 4, 24)
    assert model(token_ids=ids, images=images).shape == (2, 4 + model.image_sequence_length, 24)


def test_what_is_refused(model: Any) -> None:
    ids = torch.arange(4)[None]
    with pytest.raises(ValueError, match=r"8 × 8 × 3, but .* are 8 × 9 × 3"):
        model(ids, images=torch.rand(1, 8, 9, 3))
    with pytest.raises(ValueError, match="images has batch 2, but token_ids has batch 1"):
        model(ids, images=torch.rand(2, 8, 8, 3))
    with pytest.raises(ValueError, match="vit_pooling='gap' must be one of None"):
        PaliGemmaBackbone(**SMALL, vit_pooling="gap")
    with pytest.raises(ValueError, match="vit_hidden_dim=10 is not divisible by vit_num_heads=3"):
        PaliGemmaBackbone(**{**SMALL, "vit_num_heads": 3})
    with pytest.raises(ValueError, match="image_size=3 must be at least 4"):
        PaliGemmaBackbone(**{**SMALL, "image_size": 3})


@pytest.mark.parametrize("checkpoint", CHECKPOINTS[:2], ids=lambda one: one.id)
@torch.no_grad()
def test_logits_of_exports(checkpoint: Any, tmp_path: Path) -> None:
    model: Any = Backbone.from_preset(checkpoint.save(tmp_path / "theirs"))
    model.export_to_transformers(tmp_path / "ours")
    inputs = checkpoint.make_inputs()
    theirs = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    ).eval()
    images = PALI_GEMMA.forms["images"](inputs["images"])
    expected = theirs(**text(inputs), pixel_values=images).logits[:, TOKENS:]
    logits = model.token_embedding(model(inputs)[:, TOKENS:], reverse=True)
    oracle.assert_close(logits, oracle.named(expected))
