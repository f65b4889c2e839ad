"""Tokenizers go along with models: to transformers, from there, and to KerasHub."""

from __future__ import annotations

from . import oracle  # isort: skip  # noqa: F401  # before Keras

import json
import shutil
from pathlib import Path
from typing import Any

import keras_hub
import pytest
import torch
import transformers
from typer.testing import CliRunner

from keras_hub_torch import cli, models
from keras_hub_torch import tokenizers as ours
from keras_hub_torch.generation.embedding import embed
from keras_hub_torch.models import Backbone

from .test_tokenizers import BERT, BYTE_PAIR, sentence_piece
from .text_corpus import corpus
from .vocabularies import byte_pairs, word_pieces

# What looks like special tokens is such a one to transformers always.
TEXTS = [text for text in corpus() if not any(mark in text for mark in "<[|")][:400]
SMALL = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
DECODER = {
    "num_layers": 1,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
    "intermediate_dim": 12,
}
GEMMA = {**DECODER, "head_dim": 4}
QWEN = {**GEMMA, "layer_norm_epsilon": 1e-5}
GPT2 = {**SMALL, "max_sequence_length": 16}
BERT_LIKE = {**SMALL, "max_sequence_length": 16}
ALBERT = {**BERT_LIKE, "embedding_dim": 6}
T5 = {**SMALL, "key_value_dim": 4}
# Arguments of the backbone; ids of begin, end and padding for text that is generated.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Bert": (BERT_LIKE, {}),
    "GPT2": (GPT2, {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"}),
    "Llama3": (
        DECODER,
        {
            "bos": "<|begin_of_text|>",
            "eos": ["<|end_of_text|>", "<|eot_id|>"],
            "pad": "<|end_of_text|>",
        },
    ),
    "Qwen3": (QWEN, {"eos": ["<|im_end|>", "<|endoftext|>"], "pad": "<|endoftext|>"}),
    "Llama": (DECODER, {"bos": "<s>", "eos": "</s>", "pad": "</s>"}),
    "Gemma": (GEMMA, {"bos": "<bos>", "eos": ["<eos>", "<end_of_turn>"], "pad": "<pad>"}),
    "T5": (T5, {"eos": "</s>", "pad": "<pad>", "bos": "</s>"}),
    "Albert": (ALBERT, {}),
    "XLMRoberta": (BERT_LIKE, {}),
}


def arguments(name: str) -> tuple[Any, ...]:
    if name == "Bert":
        return (list(word_pieces(*BERT)),)
    if name in ("GPT2", "Llama3", "Qwen3"):
        return byte_pairs(*BYTE_PAIR[f"{name}Tokenizer"][1])
    return (sentence_piece(f"{name}Tokenizer"),)


def saved(name: str, folder: Path) -> Any:
    """The tokenizer of a preset that is written."""
    tokenizer = getattr(ours, f"{name}Tokenizer")(*arguments(name))
    size = tokenizer.vocabulary_size()
    backbone = getattr(models, f"{name}Backbone")(vocabulary_size=size, **CASES[name][0])
    backbone.save_to_preset(folder)
    tokenizer.save_to_preset(folder)
    return tokenizer


def without_specials(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def assert_same(tokenizer: Any, other: Any, ids: list[list[int]]) -> None:
    assert other.tokenize(TEXTS) == ids
    assert type(other) is type(tokenizer)
    assert other.special_token_ids == tokenizer.special_token_ids
    assert other.stop_token_ids == tokenizer.stop_token_ids
    assert other.vocabulary_size() == tokenizer.vocabulary_size()


# KerasHub does not close the files of its assets.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", CASES)
def test_round_trip(name: str, tmp_path: Path) -> None:
    tokenizer = saved(name, tmp_path / "ours")
    ids = tokenizer.tokenize(TEXTS)
    carried = Backbone.from_preset(tmp_path / "ours").export_to_transformers(tmp_path / "theirs")
    assert "tokenizer.json" in carried
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    found = without_specials(theirs, TEXTS)
    same = sum(one == other for one, other in zip(found, ids, strict=True))
    assert same >= (0.8 if name == "Bert" else 1) * len(ids)
    for mark in ("start", "end", "pad", "mask"):
        known = {"start": "bos", "end": "eos"}.get(mark, mark)
        if getattr(tokenizer, f"{mark}_token", None) is not None:
            id = getattr(tokenizer, f"{mark}_token_id")
            assert getattr(theirs, f"{known}_token_id") == id
    generation = tmp_path / "theirs" / "generation_config.json"
    marks = CASES[name][1]
    assert generation.exists() is bool(marks)
    if marks:
        config = transformers.GenerationConfig.from_pretrained(tmp_path / "theirs")
        for mark, tokens in marks.items():
            listed = [tokens] if isinstance(tokens, str) else tokens
            numbers = [*map(tokenizer.token_to_id, listed)]
            expected = numbers[0] if isinstance(tokens, str) else numbers
            assert getattr(config, f"{mark}_token_id") == expected

    # And back; KerasHub has the ids that it has of the assets given.
    back = Backbone.from_preset(tmp_path / "theirs")
    carried = back.save_to_preset(tmp_path / "back")
    assert carried[0] == "tokenizer.json"
    assert_same(tokenizer, ours.Tokenizer.from_preset(tmp_path / "back"), ids)
    keras = keras_hub.tokenizers.Tokenizer.from_preset(str(tmp_path / "back"))
    eager = getattr(keras_hub.tokenizers, f"{name}Tokenizer")(*arguments(name))
    assert [*map(list, keras.tokenize(TEXTS))] == [*map(list, eager.tokenize(TEXTS))]

    # Of what transformers writes itself: the one file.
    theirs.save_pretrained(tmp_path / "again")
    shutil.copy(tmp_path / "theirs" / "config.json", tmp_path / "again")
    assert not [*(tmp_path / "again").glob("*.model")]
    assert_same(tokenizer, ours.Tokenizer.from_preset(tmp_path / "again"), ids)


WRITTEN = {
    "Albert": ("AlbertTokenizer", "albert"),
    "Gemma": ("GemmaTokenizer", "gemma"),
    "Llama": ("LlamaTokenizer", "llama"),
    "T5": ("T5Tokenizer", "t5"),
    "XLMRoberta": ("XLMRobertaTokenizer", "xlm-roberta"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_models_of_one_file(name: str, tmp_path: Path) -> None:
    """Of the `tokenizer.json` that transformers makes of a model, the model's ids."""
    kind, family = WRITTEN[name]
    model = sentence_piece(f"{name}Tokenizer")
    (tmp_path / "tokenizer.model").write_bytes(model)
    theirs = getattr(transformers, kind).from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path / "theirs")
    assert not [*(tmp_path / "theirs").glob("*.model")]
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({"model_type": family}))
    found = ours.Tokenizer.from_preset(tmp_path / "theirs")
    expected = getattr(ours, f"{name}Tokenizer")(model)
    assert type(found) is type(expected)
    assert found.special_token_ids == expected.special_token_ids
    assert found.tokenize(TEXTS) == expected.tokenize(TEXTS)


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", False), ("max", True)])
def test_embed(pooling: str, normalize: bool, tmp_path: Path) -> None:
    """A task goes along, and texts are embedded as it says."""
    saved("Bert", tmp_path / "plain")
    theirs = keras_hub.models.BertTextEmbedder(
        keras_hub.models.Backbone.from_preset(str(tmp_path / "plain")),
        keras_hub.models.BertTextEmbedderPreprocessor.from_preset(
            str(tmp_path / "plain"), sequence_length=16
        ),
        pooling_mode=pooling,
        normalize=normalize,
    )
    theirs.save_to_preset(str(tmp_path / "task"))
    Backbone.from_preset(tmp_path / "task").save_to_preset(tmp_path / "new")
    texts = ["A sentence.", "Größe", ""]
    found = embed(Backbone.from_preset(tmp_path / "new"), texts)
    expected = torch.tensor(theirs.encode_text(texts))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    task = keras_hub.models.TextEmbedder.from_preset(str(tmp_path / "new"))
    torch.testing.assert_close(torch.tensor(task.encode_text(texts)), expected)
    said = CliRunner().invoke(cli.app, ["embed", str(tmp_path / "new"), *texts])
    rows = torch.tensor([json.loads(line) for line in said.stdout.splitlines()])
    torch.testing.assert_close(rows, found)


def test_an_export_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    model = models.BertBackbone(vocabulary_size=9, **BERT_LIKE)
    with pytest.warns(UserWarning, match="No tokenizer goes along"):
        assert model.export_to_transformers(tmp_path) == []


@pytest.mark.filterwarnings("error")
def test_what_is_not_carried(tmp_path: Path) -> None:
    saved("Bert", tmp_path / "ours")
    model = Backbone.from_preset(tmp_path / "ours")
    assert model.save_to_preset(tmp_path / "alone", carry=False) == []
    assert not (tmp_path / "alone" / "tokenizer.json").exists()
    names = model.save_to_preset(tmp_path / "new")
    assert names == ["assets/tokenizer/vocabulary.txt", "tokenizer.json"]
    assert model.save_to_preset(tmp_path / "ours") == []
    shutil.rmtree(tmp_path / "ours")
    with pytest.warns(UserWarning, match="Only the model is saved"):
        assert model.save_to_preset(tmp_path / "late") == []
