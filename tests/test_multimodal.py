"""Preprocessors of text with images or sound, compared with KerasHub's."""

from __future__ import annotations

from .oracle import keras, keras_hub  # isort: skip  # before all that imports Keras

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from keras_hub_torch import layers, models
from keras_hub_torch import tokenizers as ours

from .test_converters import pixels, waves
from .test_tokenizers import pairs

IMAGE, IMAGES = pixels(9, 8, 3), pixels(2, 9, 8, 3)
SIZED = {"image_size": (5, 6), "scale": 0.01, "offset": -1.0}
START = "<start_of_image>"


@dataclass(frozen=True)
class Task:
    """A preprocessor, with what it is called on to train and to generate."""

    name: str
    tokenizer: str
    options: dict[str, Any]
    converters: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    training: Sequence[Any] = ()
    generating: Sequence[Any] = ()


def pair_task(name: str, tokenizer: str, options: dict[str, Any]) -> Task:
    converter = name.replace("CausalLM", "").replace("Preprocessor", "ImageConverter")
    batch = {"prompts": ["The QUICK, brown  fox!", "ÀÉ Über\t\n (x)"], "images": IMAGES}
    one = {"prompts": "Hello WORLD", "images": IMAGE}
    parts = {"image_converter": (converter, SIZED)}
    return Task(name, tokenizer, options, parts, (batch, one), ("a",))


PLAIN = {"sequence_length": 9, "add_end_token": False}
TASKS = {
    "siglip": pair_task("SigLIPPreprocessor", "SigLIPTokenizer", {}),
    "siglip-plain": pair_task(
        "SigLIPPreprocessor", "SigLIPTokenizer", {**PLAIN, "canonicalize_text": False}
    ),
    "metaclip2": pair_task("MetaCLIP2CausalLMPreprocessor", "MetaCLIP2Tokenizer", {}),
    "pali_gemma": Task(
        "PaliGemmaCausalLMPreprocessor",
        "PaliGemmaTokenizer",
        {"sequence_length": 9},
        {"image_converter": ("PaliGemmaImageConverter", SIZED)},
        (
            {"prompts": ["the quick", "a"], "responses": ["b", "c d e f g h"], "images": IMAGES},
            {"prompts": "the quick", "responses": "fox", "images": IMAGE},
        ),
        (
            {"prompts": ["the quick brown fox", "a"], "images": IMAGES},
            {"prompts": "the", "responses": "b", "images": IMAGE},
        ),
    ),
    "gemma3": Task(
        "Gemma3CausalLMPreprocessor",
        "Gemma3Tokenizer",
        {"sequence_length": 29, "num_vision_tokens_per_image": 3, "max_images_per_prompt": 3},
        {"image_converter": ("Gemma3ImageConverter", SIZED)},
        (
            {"prompts": [f"the {START} b", START], "responses": ["c", "d"], "images": IMAGES},
            {"prompts": ["the quick", "a"], "responses": ["b", "c d"]},
            {"prompts": f"the{START}{START}", "responses": "fox", "images": [IMAGE, IMAGE]},
            {
                "prompts": [f"the{START}{START}", "a"],
                "responses": ["fox", "e"],
                "images": [[IMAGE, IMAGE], []],
            },
        ),
        ("the quick", {"prompts": f"the{START}", "images": IMAGE}, ["a", "b"]),
    ),
    "gemma3-text": Task(
        "Gemma3CausalLMPreprocessor",
        "Gemma3Tokenizer",
        {"sequence_length": 9, "add_start_token": False, "add_end_token": False},
        {},
        ({"prompts": [f"the{START}", "a"], "responses": ["x", "y"]},),
        ("a",),
    ),
    "blip2": Task(
        "BLIP2CausalLMPreprocessor",
        "BLIP2FlanT5Tokenizer",
        {"sequence_length": 9},
        {"image_converter": ("BLIP2ImageConverter", {"image_size": (5, 6)})},
        ({"text": ["a cat", "the dog jumped over it"], "images": IMAGES}, "a"),
        ({"text": ["a cat", "b"], "images": IMAGES}, "a"),
    ),
    "blip2-seq2seq": Task(
        "BLIP2Seq2SeqLMPreprocessor",
        "BLIP2FlanT5Tokenizer",
        {"encoder_sequence_length": 9, "decoder_sequence_length": 6},
        {"image_converter": ("BLIP2ImageConverter", {"image_size": (5, 6)})},
        ({"encoder_text": ["a cat", "b"], "decoder_text": ["x", "y"], "images": IMAGES},),
        ({"encoder_text": ["a cat", "b"], "images": IMAGES}, ["a"]),
    ),
    "t5gemma2": Task(
        "T5Gemma2Seq2SeqLMPreprocessor",
        "T5Gemma2Tokenizer",
        {"encoder_sequence_length": 29, "decoder_sequence_length": 6, "image_size": 6}
        | {"num_vision_tokens_per_image": 4, "add_start_token": True},
        {"image_converter": ("T5Gemma2ImageConverter", {"image_size": (6, 6)})},
        ({"encoder_text": ["a cat", "b"], "decoder_text": ["x", "y"]},),
        (
            ["a", "b"],
            {
                "encoder_text": [f"a{START}", f"{START}b"],
                "decoder_text": ["x", "y z"],
                "images": IMAGES,
            },
        ),
    ),
    "moonshine": Task(
        "MoonshineAudioToTextPreprocessor",
        "MoonshineTokenizer",
        {"decoder_sequence_length": 7},
        {"audio_converter": ("MoonshineAudioConverter", {})},
        ({"audio": waves(2, 1999), "text": ["the quick", "b"]},),
        ({"audio": waves(2, 1999)}, {"audio": waves(2, 1999), "text": ["a", "b"]}),
    ),
}


def both(task: Task) -> tuple[Any, Any]:
    """Ours and KerasHub's."""
    keras.utils.clear_session(free_memory=False)
    arguments, options = pairs()[task.tokenizer]
    options = {key: value for key, value in options.items() if key != "sequence_length"}
    found = []
    for tokenizers, room, tasks in (
        (ours, layers, models),
        (keras_hub.tokenizers, keras_hub.layers, keras_hub.models),
    ):
        parts = {k: getattr(room, name)(**c) for k, (name, c) in task.converters.items()}
        parts["tokenizer"] = getattr(tokenizers, task.tokenizer)(*arguments, **options)
        found.append(getattr(tasks, task.name)(**parts, **task.options))
    return found[0], found[1]


def check_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            check_equal(found[key], expected[key])
    elif isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            check_equal(one, other)
    else:
        expected = torch.as_tensor(np.asarray(expected))
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        if found.numel():
            assert (found.double() - expected.double()).abs().max() < 1e-4


@pytest.mark.parametrize("name", TASKS)
def test_equal_to_keras_hub(name: str) -> None:
    task = TASKS[name]
    mine, theirs = both(task)
    config, expected = mine.get_config(), theirs.get_config()
    lost = {"tokenizer", *mine.lost, *task.converters}
    wanted = {k: v for k, v in expected.items() if k not in lost and v is not None}
    assert wanted.items() <= json.loads(json.dumps(config)).items()
    for x in task.training:
        check_equal(mine(dict(x) if isinstance(x, dict) else x), theirs(x))
    for x in task.generating:
        found, wanted = mine.generate_preprocess(x), theirs.generate_preprocess(x)
        check_equal(found, wanted)
        keys = [key for key in wanted if key.endswith(("token_ids", "padding_mask"))]
        arrays = {key: np.asarray(wanted[key]) for key in keys}
        assert mine.generate_postprocess(found) == theirs.generate_postprocess(arrays)


def test_samples_of_a_loader() -> None:
    mine, _ = both(TASKS["gemma3"])
    batch = {"prompts": [START, "a"], "responses": ["x", "y"], "images": [[IMAGE], []]}
    rows = [{key: value[i] for key, value in batch.items()} for i in range(2)]
    check_equal(mine(rows)[0], {k: v.numpy() for k, v in mine(batch)[0].items()})


def test_bad_input() -> None:
    mine, _ = both(TASKS["gemma3"])
    for x, message in (
        ({"prompts": "a"}, "no 'responses'"),
        ({"prompts": ["a"], "responses": ["b", "c"]}, "1 prompts and 2 responses"),
        ({"prompts": "a", "responses": "b", "images": [IMAGE] * 4}, "4 images; 3 are the most"),
    ):
        with pytest.raises(ValueError, match=message):
            mine(x)
    text, _ = both(TASKS["gemma3-text"])
    with pytest.raises(ValueError, match="no image_converter"):
        text({"prompts": "a", "responses": "b", "images": IMAGE})
    with pytest.raises(ValueError, match="need more than 512"):
        models.Gemma3CausalLMPreprocessor(
            mine.tokenizer, layers.Gemma3ImageConverter((5, 6)), sequence_length=512
        )
