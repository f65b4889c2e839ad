"""Images of what strings say: a preset's several tokenizers, Keras's and diffusers'."""

from __future__ import annotations

from . import oracle  # isort: skip  # noqa: F401  # before Keras

import json
import pickle
from pathlib import Path
from typing import Any

import keras_hub
import pytest
import torch
import transformers

from keras_hub_torch import generate_images, models
from keras_hub_torch import tokenizers as ours
from keras_hub_torch.models import Backbone

from .cases.stable_diffusion_3 import clip, config, t5
from .test_tokenizers import sentence_piece
from .vocabularies import byte_pairs

TEXTS = ["A photo of a Cat", "", "Größe ﬁ 123 " * 90, "two  dogs, <|endoftext|> [x]"]
CLIP = byte_pairs("<|startoftext|>", "<|endoftext|>", end_of_word="</w>")
LENGTH = 77


def preprocessor(library: Any, room: Any, third: bool = True, flux: bool = False) -> Any:
    """Of KerasHub or of this package; the larger CLIP pads with the token of id 0."""
    parts: dict[str, Any] = {}
    for name, pads in (("clip_l", True), ("clip_g", False)):
        tokenizer = room.CLIPTokenizer(
            *CLIP, pad_with_end_token=pads, config_file=f"{name}_tokenizer.json"
        )
        parts[f"{name}_preprocessor"] = library.CLIPPreprocessor(
            tokenizer, config_file=f"{name}_preprocessor.json"
        )
    tokenizer = room.T5Tokenizer(sentence_piece("T5Tokenizer"), config_file="t5_tokenizer.json")
    if third:
        parts["t5_preprocessor"] = library.T5Preprocessor(
            tokenizer, sequence_length=19, config_file="t5_preprocessor.json"
        )
    if flux:
        del parts["clip_g_preprocessor"]
        return library.FluxTextToImagePreprocessor(**parts)
    return library.StableDiffusion3TextToImagePreprocessor(**parts)


def backbone(third: bool = True) -> Any:
    torch.manual_seed(0)
    size = {"vocabulary_size": len(CLIP[0]), "max_sequence_length": LENGTH}
    towers = {
        "clip_l": clip("clip_l", 6, num_layers=1, **size),
        "clip_g": clip("clip_g", 10, num_layers=1, intermediate_activation="gelu", **size),
        "t5": t5(vocabulary_size=2000) if third else None,
    }
    return models.StableDiffusion3Backbone(**config(mmdit_position_size=16, **towers)).eval()


# KerasHub does not close the files of its assets.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("third", [True, False])
def test_presets(third: bool, tmp_path: Path) -> None:
    theirs = preprocessor(keras_hub.models, keras_hub.tokenizers, third)
    expected = {
        name: torch.as_tensor(ids) for name, ids in theirs.generate_preprocess(TEXTS).items()
    }
    model = backbone(third)
    for folder in ("ours", "theirs"):
        model.save_to_preset(tmp_path / folder)
    theirs.save_to_preset(str(tmp_path / "theirs"))
    found = models.Preprocessor.from_preset(tmp_path / "theirs")
    assert type(found) is models.StableDiffusion3TextToImagePreprocessor
    found.save_to_preset(tmp_path / "ours")
    files = {path.relative_to(tmp_path / "theirs") for path in (tmp_path / "theirs").rglob("*")}
    assert files == {path.relative_to(tmp_path / "ours") for path in (tmp_path / "ours").rglob("*")}
    room: Any = keras_hub.models
    again = room.StableDiffusion3TextToImagePreprocessor.from_preset(str(tmp_path / "ours"))
    for one in (found, again, pickle.loads(pickle.dumps(found))):
        ids = one.generate_preprocess(TEXTS)
        assert ids.keys() == expected.keys()
        assert all(torch.equal(torch.as_tensor(ids[name]), expected[name]) for name in ids)
    single = found(TEXTS[0])
    assert all(torch.equal(ids, expected[name][0]) for name, ids in single.items())
    x, y = found(TEXTS, [1, 2, 3, 4])
    assert torch.equal(x["clip_g"], expected["clip_g"])
    assert y == [1, 2, 3, 4]

    # Of its tokenizers alone.
    for file in (tmp_path / "ours").glob("*preprocessor.json"):
        file.unlink()
    found = models.TextToImagePreprocessor.from_preset(tmp_path / "ours")
    assert torch.equal(found(TEXTS)["clip_g"], expected["clip_g"])
    assert found("x")["t5"].shape == (256,) if third else "t5" not in found("x")


def test_flux() -> None:
    found = preprocessor(models, ours, flux=True)
    same = preprocessor(models, ours)(TEXTS)
    assert found.serialize()["registered_name"] == "keras_hub>FluxTextToImagePreprocessor"
    ids = found(TEXTS)
    assert ids.keys() == {"clip_l", "t5"}
    assert all(torch.equal(ids[name], same[name]) for name in ids)
    again = type(found).from_config(found.get_config())
    assert again.t5_preprocessor.sequence_length == 19


@pytest.mark.parametrize("third", [True, False])
def test_pipelines(third: bool, tmp_path: Path) -> None:
    """The tokenizers in the folders of diffusers give transformers' ids."""
    vocabulary, merges = CLIP
    rules = [tuple(one.split(" ")) for one in merges]
    for folder, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        clip_tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=rules, pad_token=pad)
        clip_tokenizer.save_pretrained(tmp_path / folder)
    if third:
        (tmp_path / "tokenizer_3").mkdir()
        (tmp_path / "tokenizer_3" / "spiece.model").write_bytes(sentence_piece("T5Tokenizer"))
        (tmp_path / "tokenizer_3" / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    found = models.TextToImagePreprocessor.from_preset(tmp_path)
    expected = preprocessor(models, ours, third)
    assert found.serialize()["config"].keys() == expected.serialize()["config"].keys()
    texts = [text for text in TEXTS if "!" not in text]
    for name, ids in found(texts).items():
        assert torch.equal(ids[:, :18], expected(texts)[name][:, :18])
    clip_tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    options = {"padding": "max_length", "max_length": LENGTH, "truncation": True}
    assert found(texts)["clip_l"].tolist() == clip_tokenizer(texts, **options)["input_ids"]
    (tmp_path / "model_index.json").write_text('{"_class_name": "KolorsPipeline"}')
    with pytest.raises(ValueError, match="KolorsPipeline, which no TextToImagePreprocessor"):
        models.TextToImagePreprocessor.from_preset(tmp_path)


@torch.no_grad()
def test_images_of_texts(tmp_path: Path) -> None:
    step = preprocessor(models, ours)
    backbone().save_to_preset(tmp_path)
    step.save_to_preset(tmp_path)
    model = Backbone.from_preset(tmp_path)
    options: dict[str, Any] = {"num_steps": 2, "seed": 1}
    expected = generate_images(model, step(TEXTS[:1]), step(["ugly"]), **options)
    torch.testing.assert_close(
        generate_images(model, TEXTS[0], negative="ugly", **options), expected
    )
    two = generate_images(model, TEXTS[:2], negative=["ugly", ""], preprocessor=step, **options)
    assert two.shape == (2, *expected.shape[1:])
    plain = generate_images(model, TEXTS[0], **options)
    empty = generate_images(model, step(TEXTS[:1]), step([""]), **options)
    torch.testing.assert_close(plain, empty)
    # A model without a T5 takes no ids for it.
    assert generate_images(backbone(False), TEXTS[0], preprocessor=step, **options).isfinite().all()
    with pytest.raises(ValueError, match="There are 2 texts, but 1 of negative"):
        generate_images(model, TEXTS[:2], negative=["x"])
    with pytest.raises(TypeError, match="negative goes with texts"):
        generate_images(model, step(TEXTS[:1]), negative="x")
    with pytest.raises(TypeError, match="comes from no preset that has tokenizers"):
        generate_images(backbone(), "x")
    (tmp_path / "clip_l_tokenizer.json").unlink()
    (tmp_path / "preprocessor.json").write_text(json.dumps({"config": {}}))
    with pytest.raises(ValueError, match="is not Keras's"):
        generate_images(model, "x")
