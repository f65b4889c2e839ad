"""Text in, text out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras_hub
import pytest
import torch

from keras_hub_torch import embed, generate, models, stream
from keras_hub_torch import tokenizers as ours
from keras_hub_torch.preprocessing.causal_lm import detokenized

from .test_text_preprocessors import built
from .test_tokenizers import pairs
from .text_corpus import PHRASES

SMALL = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
LLAMA = {"num_layers": 2, "num_query_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
TEXTS = [PHRASES[0][:30], "Größe", PHRASES[4]]


def preset(name: str, config: dict[str, Any], folder: Path, **options: Any) -> tuple[Any, Any]:
    """A saved backbone with random weights and a preprocessor, here and KerasHub's task."""
    base = "Seq2SeqLM" if "Seq2Seq" in name else "CausalLM"
    preprocessor, theirs = built(name, **options)
    size = preprocessor.tokenizer.vocabulary_size()
    cls = name.replace(f"{base}Preprocessor", "Backbone")
    torch.manual_seed(5)
    backbone = getattr(models, cls)(vocabulary_size=size, **config)
    for weight in backbone.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    backbone.save_to_preset(folder)
    preprocessor.save_to_preset(folder)
    task = getattr(keras_hub.models, name.replace("Preprocessor", ""))
    keras_backbone = keras_hub.models.Backbone.from_preset(str(folder))
    model = task(keras_backbone, preprocessor=theirs)
    model.compile(sampler="greedy")
    return models.Backbone.from_preset(folder), model


def test_causal(tmp_path: Path) -> None:
    config = {**LLAMA, "num_key_value_heads": 1}
    name = "LlamaCausalLMPreprocessor"
    backbone, task = preset(name, config, tmp_path, sequence_length=60)
    expected = task.generate(TEXTS, max_length=60)
    found = generate(backbone, TEXTS, max_length=60)
    assert found == expected
    assert generate(backbone, TEXTS) == expected  # as long as the preprocessor's rows
    assert generate(backbone, TEXTS[0], 60) == expected[0] == task.generate(TEXTS[0], max_length=60)
    stripped = generate(backbone, TEXTS, 60, strip_prompt=True)
    assert stripped == task.generate(TEXTS, max_length=60, strip_prompt=True)

    tokenizer = ours.Tokenizer.from_preset(tmp_path)
    ids = [[1, *row] for row in tokenizer(TEXTS)]
    rows = generate(backbone, ids, 60, preprocessor=tokenizer)
    assert tokenizer.detokenize([row[one].tolist() for row, one in zip(*rows.values())]) == found
    pieces = list(stream(backbone, TEXTS, 60))
    assert ["".join(one) for one in zip(*pieces)] == [
        text.removeprefix(prompt) for text, prompt in zip(expected, TEXTS)
    ]
    assert TEXTS[0] + "".join(stream(backbone, TEXTS[0], 60)) == expected[0]
    two = generate(backbone, TEXTS, 60, "top_k", num_return_sequences=2)
    assert len(two) == 6
    backbone.preset = None
    vars(backbone).pop("preset_preprocessor")
    assert generate(backbone, TEXTS, 60, preprocessor=tokenizer) == expected
    with pytest.raises(ValueError, match="return_scores is for prompts of ids"):
        generate(backbone, TEXTS, 60, preprocessor=tokenizer, return_scores=True)
    with pytest.raises(ValueError, match="strip_prompt is for prompts of text"):
        generate(backbone, [[1]], 60, strip_prompt=True)


def test_seq_2_seq(tmp_path: Path) -> None:
    config = {**SMALL, "max_sequence_length": 50}
    lengths = {"encoder_sequence_length": 40, "decoder_sequence_length": 20}
    backbone, task = preset("BartSeq2SeqLMPreprocessor", config, tmp_path, **lengths)
    expected = task.generate(TEXTS, max_length=20)
    assert generate(backbone, TEXTS, 20) == expected
    assert generate(backbone, {"encoder_text": TEXTS}, 20) == expected
    both = {"encoder_text": TEXTS, "decoder_text": ["", "so", "x y"]}
    assert generate(backbone, both, 20) == task.generate(both, max_length=20)


def test_few_positions() -> None:
    """Without a length text is as long as the model can make it."""
    tokenizer = ours.GPT2Tokenizer(*pairs()["GPT2Tokenizer"][0])
    model = models.GPT2Backbone(tokenizer.vocabulary_size(), **SMALL, max_sequence_length=9).eval()
    options = {"preprocessor": tokenizer, "stop_token_ids": None}
    assert generate(model, "a", **options) == generate(model, "a", 9, **options)
    assert "".join(stream(model, "a", **options)) == generate(model, "a", **options)[1:]


def test_text_alone(tmp_path: Path) -> None:
    """Of a family whose preprocessor is not here, or has images besides."""
    tokenizer = ours.Gemma3Tokenizer(*pairs()["Gemma3Tokenizer"][0])
    config = {**LLAMA, "num_key_value_heads": 1, "head_dim": 4, "image_size": 16}
    size = tokenizer.vocabulary_size()
    torch.manual_seed(5)
    backbone = models.Gemma3Backbone(vocabulary_size=size, **config).eval()
    prompts = [[tokenizer.start_token_id, *row] for row in tokenizer(TEXTS)]
    stops = tokenizer.stop_token_ids
    rows = generate(backbone, prompts, max_new_tokens=5, stop_token_ids=stops, pad_token_id=0)
    expected = detokenized(tokenizer, *rows.values())
    assert generate(backbone, TEXTS, max_new_tokens=5, preprocessor=tokenizer) == expected
    backbone.save_to_preset(tmp_path)
    tokenizer.save_to_preset(tmp_path)
    backbone = models.Backbone.from_preset(tmp_path)
    assert generate(backbone, TEXTS, max_new_tokens=5) == expected


def test_stops() -> None:
    """Rows end with the end of a turn, too."""
    for name, tokens in {
        "GemmaTokenizer": ("<eos>", "<end_of_turn>"),
        "Phi3Tokenizer": ("<|endoftext|>", "<|end|>"),
        "Llama3Tokenizer": ("<|end_of_text|>", "<|eot_id|>"),
        "Qwen3Tokenizer": ("<|im_end|>", "<|endoftext|>"),
        "GPT2Tokenizer": ("<|endoftext|>",),
    }.items():
        tokenizer = getattr(ours, name)(*pairs()[name][0])
        assert tokenizer.stop_token_ids == [*map(tokenizer.token_to_id, tokens)]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (b"x", r"not bytes; decode it first: \.decode"),
        ([b"x"], "not bytes"),
        (["a", None], "not NoneType"),
        (["a", ["b"]], "not list"),
        ({"encoder_text": 1.5}, "not float"),
        ({"encoder_text": []}, "There is no text"),
        ("\ud800", "half a character"),
    ],
)
def test_text_that_is_none(texts: Any, message: str) -> None:
    tokenizer = ours.T5Tokenizer(*pairs()["T5Tokenizer"][0])
    step = models.T5Seq2SeqLMPreprocessor(tokenizer, 9, 9)
    config = {"num_layers": 1, "num_heads": 1, "hidden_dim": 4, "intermediate_dim": 4}
    model = models.T5Backbone(vocabulary_size=tokenizer.vocabulary_size(), **config).eval()
    with pytest.raises((TypeError, ValueError), match=message):
        generate(model, texts, 3, preprocessor=step)
    if message != "half a character" and not isinstance(texts, dict):
        with pytest.raises((TypeError, ValueError), match=message):
            embed(model, texts, preprocessor=step)


def test_sound_of_several_lengths() -> None:
    config = {"num_layers": 1, "num_heads": 1, "hidden_dim": 4, "intermediate_dim": 4}
    model = models.WhisperBackbone(vocabulary_size=9, **config).eval()
    sounds = [torch.zeros(12, 80), torch.zeros(8, 80)]
    with pytest.raises(ValueError, match=r"one shape, not \(8, 80\) and \(12, 80\): fill"):
        generate(model, {"encoder_features": sounds, "decoder_token_ids": [[1], [1]]}, 3)
