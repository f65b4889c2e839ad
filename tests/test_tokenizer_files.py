"""Tokenizers go along with models: to transformers, from there, and to KerasHub."""

from __future__ import annotations

from . import oracle  # isort: skip  # noqa: F401  # before Keras

import base64
import functools
import json
import pickle
import re
import shutil
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import keras_hub
import pytest
import tokenizers
import torch
import transformers
from transformers.integrations.mistral.tokenizer import MistralConverter
from typer.testing import CliRunner

from keras_hub_torch import cli, layers, models
from keras_hub_torch import tokenizers as ours
from keras_hub_torch.generation.embedding import embed
from keras_hub_torch.models import Backbone
from keras_hub_torch.preprocessing.tokenizers.byte_pair import byte_characters
from keras_hub_torch.presets.checkpoints import TRANSFORMERS

from .test_readme import known_kinds
from .test_tokenizers import (
    BERT,
    BYTE_PAIR,
    SENTENCE_PIECE,
    TEKKEN,
    pairs,
    sentence_piece,
    whisper_options,
)
from .text_corpus import corpus
from .vocabularies import byte_pairs, sentence_pieces, word_pieces

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
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = ours.Tokenizer.from_preset(tmp_path / "theirs")
    unknown = {"Albert": ["AlbertTokenizer knows no Replace, NFKD, StripAccents, Lowercase"]}
    told = [str(one.message).split(": ")[1] for one in caught]
    assert told == unknown.get(name, [])
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


CHAT_TOKENS = (
    *("<s>", "</s>", "<pad>", "<mask>", "[INST]", "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    *("<|start_header_id|>", "<|end_header_id|>"),
)
LLAMA_MARKS = ("<|begin_of_text|>", "<|end_of_text|>")


def steps(*names: Any) -> Any:
    """Steps of the library: names, or pairs of them and what they take."""
    parts = [name if isinstance(name, tuple) else (name, {}) for name in names]
    made: list[Any] = []
    for name, options in parts:
        module = "pre_tokenizers" if hasattr(tokenizers.pre_tokenizers, name) else "normalizers"
        made.append(getattr(getattr(tokenizers, module), name)(**options))
    return getattr(tokenizers, module).Sequence(made)


def cut_by(pattern: str, behavior: str = "isolated") -> tuple[str, dict[str, Any]]:
    return "Split", {"pattern": tokenizers.Regex(pattern), "behavior": behavior}


BYTES = ("ByteLevel", {"add_prefix_space": False})
PLAIN_BYTES = ("ByteLevel", {"add_prefix_space": False, "use_regex": False})
DIGITS = ("Digits", {"individual_digits": True})
# The type of the model, its begin and end, how text is cut and normalized; the class.
CUTTING: dict[str, tuple[str, tuple[str, str], Any, Any, str]] = {
    "SmolLM 2": ("llama", ("<|im_start|>", "<|im_end|>"), (DIGITS, BYTES), (), "GPT2Tokenizer"),
    "a prefix": ("roberta", ("<s>", "</s>"), ("ByteLevel",), (), "RobertaTokenizer"),
    "Nemo": (
        "mistral",
        ("<s>", "</s>"),
        (cut_by(TEKKEN), PLAIN_BYTES),
        (),
        "MistralTekkenTokenizer",
    ),
    "DeepSeek": (
        "llama",
        LLAMA_MARKS,
        (cut_by("[\r\n]"), cut_by(r"\s?\p{L}+"), cut_by(r"\w+"), DIGITS, PLAIN_BYTES),
        ("NFC",),
        "Llama3Tokenizer",
    ),
    "folded": (
        "gpt_neox",
        ("<|endoftext|>",) * 2,
        ("WhitespaceSplit", "ByteLevel"),
        ("NFKD", "StripAccents", "Lowercase"),
        "GPTNeoXTokenizer",
    ),
}


def written(folder: Path, kind: str, marks: tuple[str, str], cuts: Any, normal: Any) -> Any:
    """A checkpoint of transformers without weights; its tokenizer, of the library."""
    folder.mkdir(exist_ok=True)
    vocabulary, merges = byte_pairs(*CHAT_TOKENS)
    model = tokenizers.models.BPE(vocabulary, [tuple(one.split(" ")) for one in merges])
    theirs = tokenizers.Tokenizer(model)
    theirs.pre_tokenizer = steps(*cuts)
    if normal:
        theirs.normalizer = steps(*normal)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    theirs.add_special_tokens(list(CHAT_TOKENS))
    theirs.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {"bos_token": marks[0], "eos_token": marks[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return theirs


def assigned(text: str) -> bool:
    """Whether its characters are in all versions of Unicode at hand."""
    return not any(unicodedata.category(one) == "Cn" or one == "\u2e63" for one in text)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", CUTTING)
def test_ways_to_cut(name: str, tmp_path: Path) -> None:
    """Those of `tokenizer.json` that a family has not are kept, beside what KerasHub reads."""
    theirs = written(tmp_path / "theirs", *CUTTING[name][:4])
    tokenizer = ours.Tokenizer.from_preset(tmp_path / "theirs")
    assert type(tokenizer).__name__ == CUTTING[name][4]
    texts = [text for text in corpus(900) if assigned(text)]
    ids = [one.ids for one in theirs.encode_batch(texts, add_special_tokens=False)]
    assert tokenizer.tokenize(texts) == ids
    (tmp_path / "config.json").write_text(
        '{"registered_name": "keras_hub>GPT2Backbone", "class_name": "GPT2Backbone", "config": {}}'
    )
    tokenizer.save_to_preset(tmp_path)
    again = ours.Tokenizer.from_preset(tmp_path)
    assert again.serialize() == tokenizer.serialize()
    assert pickle.loads(pickle.dumps(again)).tokenize(texts) == ids
    special = {*map(tokenizer.token_to_id, CHAT_TOKENS)}
    plain = again.tokenize(texts, special_tokens_in_strings=False)
    assert not special & {id for row in plain for id in row}
    keras = keras_hub.tokenizers.Tokenizer.from_preset(str(tmp_path))
    assert type(keras).__name__ == CUTTING[name][4]
    for file, content in again.to_transformers():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / "theirs" / file).write_bytes(data)
    exported = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    assert without_specials(exported, texts) == ids


SLOW = ("Replace", {"pattern": tokenizers.Regex("(a+)+b"), "content": ""})


@pytest.mark.parametrize(
    ("cuts", "normal", "message"),
    [
        (("Metaspace", BYTES), (), "'Metaspace'.* Text is cut as GPT2Tokenizer does it"),
        ((cut_by("[ab]", "merged_with_next"), BYTES), (), "MergedWithNext"),
        (
            (BYTES,),
            (("Replace", {"pattern": tokenizers.Regex("(a+)+b"), "content": ""}),),
            "Replace",
        ),
        ((cut_by("a", "removed"),) * 21 + (BYTES,), (), "at most 20"),
        ((cut_by("a"), BYTES, cut_by("(a+)+b")), (), "must end with the step ByteLevel"),
    ],
)
def test_ways_to_cut_that_cannot_be_had(
    cuts: Any, normal: Any, message: str, tmp_path: Path
) -> None:
    written(tmp_path, "gpt2", ("<|endoftext|>",) * 2, cuts, normal)
    with pytest.warns(UserWarning, match=message):
        tokenizer = ours.Tokenizer.from_preset(tmp_path)
    assert "keras_hub_torch" not in tokenizer.serialize()


def test_ways_to_fold(tmp_path: Path) -> None:
    """What WordPieces of transformers' `tokenizer.json` are made of."""
    tokens = {token: i for i, token in enumerate(word_pieces(*BERT))}
    theirs = transformers.BertTokenizer(
        vocab=tokens, do_lower_case=True, strip_accents=False, tokenize_chinese_chars=False
    )
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    tokenizer = ours.Tokenizer.from_preset(tmp_path)
    options = ("lowercase", "strip_accents", "split_on_cjk")
    assert [getattr(tokenizer, name) for name in options] == [True, False, False]
    for options in ({}, {"lowercase": True}, {"strip_accents": True, "split_on_cjk": False}):
        tokenizer = ours.BertTokenizer(list(tokens), **options)
        for file, content in tokenizer.to_transformers():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (tmp_path / file).write_bytes(data)
        assert ours.Tokenizer.from_preset(tmp_path).serialize() == tokenizer.serialize()
    described = json.loads((tmp_path / "tokenizer.json").read_text())
    described["pre_tokenizer"] = {"type": "Metaspace", "replacement": "_"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.warns(UserWarning, match="BertTokenizer knows no Replace, Metaspace"):
        ours.Tokenizer.from_preset(tmp_path)


def tekken(pieces: list[bytes], **changes: Any) -> dict[str, Any]:
    """What Mistral's own `tekken.json` says."""
    special = ("<unk>", "<s>", "</s>", "[INST]")
    return {
        "config": {
            "pattern": TEKKEN,
            "default_vocab_size": len(pieces) + 9,
            "default_num_special_tokens": 10,
            "version": "v11",
        },
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
            for i, piece in enumerate(pieces)
        ],
        "special_tokens": [
            {"rank": i, "token_str": token, "is_control": True} for i, token in enumerate(special)
        ],
        **changes,
    }


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_gemma3_of_transformers(tmp_path: Path) -> None:
    """Its vocabulary has another token for images than KerasHub's presets, or none."""
    _, control, defined, ids = SENTENCE_PIECE["Gemma3Tokenizer"]
    others = tuple(piece for piece in defined if piece != "<img>")
    for pieces, place in (((*others, "<image_soft_token>"), "<image_soft_token>"), (others, None)):
        folder = tmp_path / str(place)
        files = ours.GemmaTokenizer(sentence_pieces("gemma", control, pieces, **ids))
        folder.mkdir()
        for name, content in files.to_transformers():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (folder / name).write_bytes(data)
        (folder / "config.json").write_text('{"model_type": "gemma3"}')
        tokenizer = ours.Tokenizer.from_preset(folder)
        sees = place is not None
        assert tokenizer.image_placeholder_id == (tokenizer.token_to_id(place) if sees else -1)
        tokenizer.save_to_preset(folder / "ours")
        config = {"registered_name": "keras_hub>Gemma3Backbone", "config": {}}
        (folder / "ours" / "config.json").write_text(json.dumps(config))
        again = ours.Tokenizer.from_preset(folder / "ours")
        assert again.special == tokenizer.special
        theirs = keras_hub.tokenizers.Gemma3Tokenizer.from_preset(str(folder / "ours"))
        texts = list(corpus(200))
        assert [*map(list, theirs.tokenize(texts))] == again.tokenize(texts) == files(texts)
        if sees:
            converter = layers.Gemma3ImageConverter((4, 4), scale=1 / 255)
            step = models.Gemma3CausalLMPreprocessor(
                again, converter, 20, num_vision_tokens_per_image=3
            )
            x = {"prompts": "a <start_of_image>", "images": torch.zeros(4, 4, 3)}
            assert step.generate_preprocess(x)["vision_mask"].sum() == 3


def test_tokens_that_take_spaces_in(tmp_path: Path) -> None:
    """Phi-3's take in the line's end behind them; there and back ids stay as they are."""
    vocabulary, merges = byte_pairs("<|endoftext|>", "<mask>", "word")
    rules = [tuple(merge.split(" ")) for merge in merges]
    theirs: Any = transformers.GPT2Tokenizer(vocabulary, rules)
    theirs.add_tokens(
        [
            tokenizers.AddedToken("<mask>", lstrip=True, normalized=False),
            tokenizers.AddedToken("word", single_word=True, normalized=False),
        ]
    )
    theirs.save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "config.json").write_text('{"model_type": "gpt2"}')
    loaded = ours.Tokenizer.from_preset(tmp_path / "a")
    texts = ["a  <mask> b", "<mask>", "word words a word.", *TEXTS[:99]]
    expected = [theirs.encode(text, add_special_tokens=False) for text in texts]
    loaded.save_to_preset(tmp_path / "b")
    for tokenizer in (loaded, ours.Tokenizer.from_preset(tmp_path / "b")):
        assert tokenizer.tokenize(texts) == expected
        assert [tokenizer.to_library().encode(text).ids for text in texts] == expected

    tokenizer = ours.Phi3Tokenizer(sentence_piece("Phi3Tokenizer"))
    (tmp_path / "c").mkdir()
    for name, content in tokenizer.to_transformers():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / "c" / name).write_bytes(data.replace(b'"rstrip": false', b'"rstrip": true'))
    (tmp_path / "c" / "config.json").write_text('{"model_type": "phi3"}')
    template = "{{ messages[0].content }}<|end|>\n<|end|> a"
    chat: Any = [{"role": "user", "content": "hi"}]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "c")
    options = {"chat_template": template, "tokenize": True}
    expected = theirs.apply_chat_template(chat, **options, return_dict=False)
    loaded = ours.Tokenizer.from_preset(tmp_path / "c")
    assert loaded.apply_chat_template(chat, **options) == expected
    assert tokenizer.apply_chat_template(chat, **options) != expected


def test_tekken(tmp_path: Path) -> None:
    vocabulary, _ = byte_pairs()
    numbers = {character: byte for byte, character in enumerate(byte_characters())}
    pieces = [bytes(numbers[one] for one in token) for token in vocabulary]
    pieces.sort(key=len)
    (tmp_path / "tekken.json").write_text(json.dumps(tekken([*pieces, b"unused"])))
    (tmp_path / "config.json").write_text('{"model_type": "mistral"}')
    tokenizer = ours.Tokenizer.from_preset(tmp_path)
    converter = MistralConverter(str(tmp_path / "tekken.json"))
    texts = list(corpus(700))
    expected = converter.converted().encode_batch(texts, add_special_tokens=False)
    assert tokenizer.tokenize(texts) == [one.ids for one in expected]
    assert tokenizer("[INST]a") == [3, tokenizer.token_to_id("a")]
    assert tokenizer.id_to_token(9) == "<SPECIAL_9>"
    tokenizer.save_to_preset(tmp_path / "keras")
    again = ours.Tokenizer.from_preset(tmp_path / "keras")
    assert again.tokenize([*texts, "[INST]"]) == tokenizer.tokenize([*texts, "[INST]"])

    old = tekken(pieces, special_tokens=None)
    old["config"]["default_num_special_tokens"] = 30
    (tmp_path / "tekken.json").write_text(json.dumps(old))
    tokenizer = ours.Tokenizer.from_preset(tmp_path)
    marks = ("<s>", "[/INST]", "<pad>", "[SYSTEM_PROMPT]", "<SPECIAL_29>")
    assert [*map(tokenizer.token_to_id, marks)] == [1, 4, 11, 17, 29]
    for nonsense in (
        {"config": {}},
        {"vocab": [{"rank": 0}]},
        {"vocab": [{"token_bytes": "!"}]},
        {"special_tokens": [{"rank": 10**9, "token_str": "x"}]},
        {"special_tokens": [{"rank": i, "token_str": str(i)} for i in range(11)]},
        {"config": {**old["config"], "default_num_special_tokens": 10**12}},
    ):
        (tmp_path / "tekken.json").write_text(json.dumps(tekken(pieces, **nonsense)))
        with pytest.raises(ValueError, match=r"tekken\.json"):
            ours.Tokenizer.from_preset(tmp_path)


def test_whisper(tmp_path: Path) -> None:
    """Languages and marks of time go along, and `WhisperProcessor` reads them."""
    vocabulary, merges = byte_pairs()
    options = whisper_options()
    tokenizer = ours.WhisperTokenizer(vocabulary, merges, **options)
    for file, content in tokenizer.to_transformers():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / file).write_bytes(data)
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    extractor = {"feature_extractor_type": "WhisperFeatureExtractor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(extractor))
    theirs = transformers.WhisperProcessor.from_pretrained(tmp_path).tokenizer
    texts = [*(text for text in corpus(500) if "<|" not in text), "<|transcribe|>a"]
    assert without_specials(theirs, texts) == tokenizer.tokenize(texts)
    first = tokenizer.no_timestamps_token_id + 1
    assert theirs.convert_tokens_to_ids("<|30.00|>") in (first + 1500, theirs.unk_token_id)
    start = theirs("a")["input_ids"]
    assert start[:2] == [tokenizer.bos_token_id, tokenizer.no_timestamps_token_id]
    assert start[-1] == tokenizer.eos_token_id
    marked = [*texts, "<|de|> <|0.04|>"]
    back = ours.Tokenizer.from_preset(tmp_path)
    assert back.language_tokens == options["language_tokens"]
    assert back.special_tokens[:5] == tokenizer.special_tokens
    assert back.tokenize(marked) == without_specials(theirs, marked)
    back.save_to_preset(tmp_path / "keras")
    again = ours.Tokenizer.from_preset(tmp_path / "keras")
    assert again.tokenize(marked) == back.tokenize(marked)


@functools.cache
def kinds() -> dict[str, str]:
    """The classes whose models transformers has, and its types of these."""
    found = {}
    for name in pairs():
        backbone = getattr(ours, name).backbone
        known = known_kinds(TRANSFORMERS, getattr(models, backbone)) if backbone else []
        found |= {name: known[0]} if known else {}
    return found


@pytest.mark.parametrize("name", kinds())
def test_every_class(name: str, tmp_path: Path) -> None:
    """Ids of what is exported are its ids, and so they are once it is read again."""
    arguments, options = pairs()[name]
    options = {k: v for k, v in options.items() if k not in ("sequence_length", "add_bos")}
    if issubclass(getattr(ours, name), ours.OPTTokenizer):
        options["add_prefix_space"] = True
    tokenizer = getattr(ours, name)(*arguments, **options)
    for file, content in tokenizer.to_transformers():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / file).write_bytes(data)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kinds()[name]}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = list(corpus(300))
    ids, plain = (
        tokenizer.tokenize(texts),
        [text for text in texts if not re.search(r"[<[|▁]", text)],
    )
    found, expected = without_specials(theirs, plain), tokenizer.tokenize(plain)
    same = sum(one == other for one, other in zip(found, expected, strict=True))
    folds = getattr(tokenizer, "lowercase", False)
    assert same >= (
        0.85 if folds else 0.98 if isinstance(tokenizer, ours.WordPieceTokenizer) else 1
    ) * len(plain)
    theirs.save_pretrained(tmp_path / "again")
    shutil.copy(tmp_path / "config.json", tmp_path / "again")
    for folder in (tmp_path, tmp_path / "again"):
        back = ours.Tokenizer.from_preset(folder)
        assert type(back) is type(tokenizer)
        assert back.tokenize(texts) == ids
        assert back.vocabulary_size() == tokenizer.vocabulary_size()
        if [*folder.glob("*.model")]:
            assert back.proto == tokenizer.proto
