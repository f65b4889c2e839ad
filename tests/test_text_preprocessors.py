"""Packers and preprocessors of text give what KerasHub's give, and what a backbone takes."""

from __future__ import annotations

from . import oracle  # isort: skip  # before Keras

import functools
import json
import pickle
import random
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import pytest
import torch

from keras_hub_torch import layers, models
from keras_hub_torch import tokenizers as ours

from .cases import all_cases
from .test_tokenizers import pairs
from .text_corpus import PHRASES

TASKS = ("TextClassifier", "MaskedLM", "TextEmbedder", "CausalLM", "Seq2SeqLM")
ODD = {
    "ESMProteinClassifierPreprocessor": "ESMTokenizer",
    "ESMMaskedPLMPreprocessor": "ESMTokenizer",
    "RWKV7CausalLMPreprocessor": "RWKVTokenizer",
}
TEXT_ONLY = sorted(
    name
    for name, cls in vars(keras_hub.models).items()
    if name in dir(models)
    and name.endswith("Preprocessor")
    and name == cls.__name__
    and cls.backbone_cls is not None
    and cls.image_converter_cls is None
    and not name.startswith(("RWKV", "Moonshine"))
    and not name.endswith("TextToImagePreprocessor")  # see test_text_to_image.py
)


def tokenizer_name(name: str) -> str:
    family = name.removesuffix("Preprocessor")
    for task in TASKS:
        family = family.removesuffix(task)
    return ODD.get(name, f"{family}Tokenizer")


@functools.cache
def tokenizers(name: str) -> tuple[Any, Any]:
    """A tokenizer here and KerasHub's."""
    arguments, options = pairs()[name]
    options = {key: value for key, value in options.items() if key != "sequence_length"}
    tokenizer = getattr(ours, name)(*arguments, **options)
    theirs = getattr(keras_hub.tokenizers, name)(*arguments, **options)
    if hasattr(theirs, "unsplittable_tokens"):  # KerasHub cuts no text: let it have ours
        theirs._tokenizer = tokenizer.library
        theirs.unsplittable_tokens = tokenizer.unsplittable_tokens
    return tokenizer, theirs


def built(name: str, **options: Any) -> tuple[Any, Any]:
    """A preprocessor here and KerasHub's."""
    tokenizer, theirs = tokenizers(tokenizer_name(name))
    return (
        getattr(models, name)(tokenizer, **options),
        getattr(keras_hub.models, name)(theirs, **options),
    )


def assert_same(found: Any, expected: Any) -> None:
    found_leaves = torch.utils._pytree.tree_flatten(found)
    expected_leaves = torch.utils._pytree.tree_flatten(expected)
    assert str(found_leaves[1]) == str(expected_leaves[1])
    for one, other in zip(found_leaves[0], expected_leaves[0]):
        other = oracle.keras.ops.convert_to_numpy(other)
        assert one.shape == other.shape
        assert one.dtype in (torch.int32, torch.bool)
        assert np.array_equal(one.numpy(), other)
        assert str(one.dtype).removeprefix("torch.") == str(other.dtype)


@pytest.mark.parametrize("name", TEXT_ONLY)
def test_preprocessors(name: str, tmp_path: Path) -> None:
    texts = [*PHRASES[:6], ""]
    if "Seq2Seq" in name:
        options = [{}, {"encoder_sequence_length": 9, "decoder_sequence_length": 12}]
        inputs: list[Any] = [{"encoder_text": texts, "decoder_text": texts[::-1]}]
        inputs.append({"encoder_text": texts[0], "decoder_text": texts[1]})
    else:
        options = [{}, {"sequence_length": 12}]
        inputs = [texts, texts[0]]
        if "Causal" in name:
            options.append(
                {"add_start_token": False, "add_end_token": False, "sequence_length": 33}
            )
        elif "ESM" not in name:
            inputs += [(texts, texts[::-1]), (texts[0], texts[1]), (texts[0], texts[1], texts[2])]
            options.append({"sequence_length": 23, "truncate": "waterfall"})
    for option in options:
        preprocessor, theirs = built(name, **option)
        for one in inputs:
            found, expected = preprocessor(one), theirs(one, y=None)
            if "Masked" in name:
                assert found[0].keys() == expected[0].keys()
                steady = found[0].keys() - {"token_ids", "mask_positions"}
                found, expected = ({key: x[0][key] for key in steady} for x in (found, expected))
            assert_same(found, expected)
        if hasattr(theirs, "generate_preprocess"):
            text = texts if "Causal" in name else inputs[0]
            found = preprocessor.generate_preprocess(text)
            expected = theirs.generate_preprocess(text)
            assert_same(found, expected)
            strings = preprocessor.generate_postprocess(found)
            assert strings == theirs.generate_postprocess(expected)
    expected = oracle.keras.saving.serialize_keras_object(theirs)
    found = preprocessor.serialize()
    for config in (found["config"], found["config"]["tokenizer"]["config"]):
        del config["name"]  # KerasHub numbers them
    for config in (expected["config"], expected["config"]["tokenizer"]["config"]):
        del config["name"]
    for key in getattr(preprocessor, "lost", ()):
        assert found["config"].pop(key) == options[-1][key]
    assert found == expected


def rows(random_: random.Random, count: int) -> list[list[int]]:
    return [[random_.randint(3, 99) for _ in range(random_.randint(0, 9))] for _ in range(count)]


@pytest.mark.parametrize("side", ["right", "left"])
def test_packers(side: str) -> None:
    random_ = random.Random(1)
    for _ in range(60):
        batch = random_.randint(1, 4)
        start, end = random_.choice([None, 1, [1, 2]]), random_.choice([None, 2, [2, 2]])
        options = {
            "sequence_length": random_.randint(6, 20),
            "end_value": end,
            "pad_value": random_.choice([None, 0, 7]),
            "padding_side": side,
        }
        call = {
            "sequence_length": random_.choice([None, random_.randint(6, 14)]),
            "add_start_value": random_.random() < 0.8,
            "add_end_value": random_.random() < 0.8,
        }
        ids = random_.choice([rows(random_, batch), rows(random_, 1)[0]])
        one = {**options, "start_value": start, "return_padding_mask": random_.random() < 0.5}
        packer = layers.StartEndPacker(**one)
        theirs = keras_hub.layers.StartEndPacker(**one, name=packer.name)
        assert_same(packer(ids, **call), theirs(ids, **call))
        assert packer.serialize() == oracle.keras.saving.serialize_keras_object(theirs)

        options["end_value"] = end or []
        options["sep_value"] = random_.choice([None, 5, [5, 6]])
        options["truncate"] = random_.choice(["round_robin", "waterfall"])
        segments = tuple(rows(random_, batch) for _ in range(random_.randint(1, 3)))
        if options["sequence_length"] + 4 < 2 + 3 * 2 + 4 * len(segments):
            segments = segments[:1]
        several = layers.MultiSegmentPacker(start_value=start or [], **options)
        theirs = keras_hub.layers.MultiSegmentPacker(
            start_value=start or [], **options, name=several.name
        )
        given = random_.choice([segments, tuple(rows[0] for rows in segments)])
        assert_same(several(given, **call), theirs(given, **call))
        assert several.serialize() == oracle.keras.saving.serialize_keras_object(theirs)
    text = ["a", "b"]
    strings = {"start_value": "<", "end_value": ">", "pad_value": "_"}
    packer = layers.StartEndPacker(6, **strings)
    assert packer(text) == keras_hub.layers.StartEndPacker(6, **strings)(text)
    with pytest.raises(ValueError, match="sequence_length is 1, but 2 tokens are special"):
        layers.StartEndPacker(1, 1, 2)([3])
    with pytest.raises(ValueError, match="as many rows"):
        layers.MultiSegmentPacker(9, 1, 2)(([[3]], [[3], [4]]))


def test_masks() -> None:
    """The shares of what is chosen, masked, replaced and kept are KerasHub's."""
    options = {"vocabulary_size": 50, "mask_selection_rate": 0.3, "mask_token_id": 4}
    options |= {"unselectable_token_ids": [0, 1, 2], "mask_selection_length": 20}
    options |= {"mask_token_rate": 0.6, "random_token_rate": 0.3}
    ids = torch.randint(0, 50, (300, 40), dtype=torch.int32)
    ids[:, 30:] = 0
    masker = layers.MaskedLMMaskGenerator(**options)
    torch.manual_seed(3)
    found = masker(ids)
    torch.manual_seed(3)
    assert all(map(torch.equal, found.values(), masker(ids).values()))
    random.seed(3)
    expected = keras_hub.layers.MaskedLMMaskGenerator(**options)(ids.numpy())
    for one in (found, {name: torch.as_tensor(value) for name, value in expected.items()}):
        count = one["mask_weights"].sum(1)
        assert one["mask_positions"].shape == (300, 20)
        assert count.max() <= 20
        assert abs(count.mean() / (ids > 2).sum(1).float().mean() - 0.3) < 0.02
        weights = one["mask_weights"].bool()
        positions = one["mask_positions"].long()
        assert torch.equal(ids.gather(1, positions)[weights], one["mask_ids"][weights])
        assert not one["mask_ids"][~weights].any()
        assert (one["mask_ids"][weights] > 2).all()
        new = one["token_ids"].gather(1, positions)[weights]
        old = one["mask_ids"][weights]
        assert abs((new == 4).float().mean() - 0.6 - 0.4 / 50) < 0.04
        assert abs((new == old).float().mean() - 0.1 - 0.3 / 50) < 0.04
        untouched = torch.ones_like(ids, dtype=torch.bool).scatter(1, positions, ~weights)
        untouched &= torch.ones_like(ids).scatter(1, positions, 0).bool()
        assert torch.equal(one["token_ids"][untouched], ids[untouched])
    limited = layers.MaskedLMMaskGenerator(**{**options, "mask_selection_length": 2})(ids)
    assert (limited["mask_weights"].sum(1) <= 2).all()
    free = layers.MaskedLMMaskGenerator(**{**options, "mask_selection_length": None})(ids)
    assert len({len(one) for one in free["mask_ids"]}) > 1


def test_a_backbone_takes_them() -> None:
    """Of a batch that a `DataLoader` with workers has made, too."""
    classifier, _ = built("BertTextClassifierPreprocessor", sequence_length=12)
    size = classifier.tokenizer.vocabulary_size()
    small = {"num_layers": 1, "num_heads": 2, "hidden_dim": 4, "intermediate_dim": 4}
    bert = models.BertBackbone(vocabulary_size=size, **small, max_sequence_length=12).eval()
    texts = [(text, text.upper(), i) for i, text in enumerate(PHRASES[:5])]
    loader = torch.utils.data.DataLoader(
        texts, batch_size=2, num_workers=2, collate_fn=classifier, multiprocessing_context="fork"
    )
    batches = list(loader)
    assert [labels.tolist() for _, labels in batches] == [[0, 1], [2, 3], [4]]
    columns = [[text[0] for text in texts], [text[1] for text in texts]]
    whole = classifier((columns[0], columns[1]))
    for name, value in whole.items():
        assert torch.equal(torch.cat([inputs[name] for inputs, _ in batches]), value)
    assert bert(whole)["pooled_output"].shape == (5, 4)

    causal, _ = built("GPT2CausalLMPreprocessor", sequence_length=9)
    size = causal.tokenizer.vocabulary_size()
    gpt2 = models.GPT2Backbone(vocabulary_size=size, **small, max_sequence_length=12).eval()
    inputs, labels, weights = causal(["a sentence", "another one"])
    assert torch.equal(gpt2((inputs, labels, weights)), gpt2(inputs))
    assert torch.equal(gpt2(causal(["a sentence", "another one"])), gpt2(inputs))


@pytest.mark.parametrize("name", ["BertTextClassifierPreprocessor", "GPT2CausalLMPreprocessor"])
def test_presets(name: str, tmp_path: Path) -> None:
    """Each reads the other's files; without any a preset's backbone says which class it is."""
    preprocessor, theirs = built(name, sequence_length=11)
    base = {"B": "TextClassifierPreprocessor", "G": "CausalLMPreprocessor"}[name[0]]
    preprocessor.save_to_preset(tmp_path / "ours")
    theirs.save_to_preset(str(tmp_path / "theirs"))
    written = {path.relative_to(tmp_path / "theirs") for path in (tmp_path / "theirs").rglob("*")}
    assert written == {
        path.relative_to(tmp_path / "ours") for path in (tmp_path / "ours").rglob("*")
    }
    small = {"vocabulary_size": 5000, "num_layers": 1, "num_heads": 2, "hidden_dim": 4}
    backbone = getattr(models, name.replace(base, "Backbone"))(intermediate_dim=4, **small)
    for folder in ("ours", "theirs"):
        backbone.save_to_preset(tmp_path / folder)
        for cls in (getattr(models, base), getattr(models, name), models.Preprocessor):
            again = cls.from_preset(tmp_path / folder)
            assert type(again) is type(preprocessor)
            assert str(again(list(PHRASES))) == str(preprocessor(list(PHRASES)))
    again = getattr(keras_hub.models, base).from_preset(str(tmp_path / "ours"))
    assert_same(preprocessor("x"), again("x"))
    (tmp_path / "ours" / "preprocessor.json").unlink()
    again = getattr(models, base).from_preset(tmp_path / "ours", sequence_length=11)
    assert str(again(list(PHRASES))) == str(preprocessor(list(PHRASES)))
    with pytest.raises(ValueError, match="which no XLMRobertaMaskedLMPreprocessor is for"):
        models.XLMRobertaMaskedLMPreprocessor.from_preset(tmp_path / "ours")


def test_rwkv() -> None:
    preprocessor, theirs = built("RWKV7CausalLMPreprocessor", sequence_length=12)
    texts = [*PHRASES[:6], "x"]
    for one in (texts, texts[0]):
        assert_same(preprocessor(one), theirs(one))
    found = preprocessor.generate_preprocess(texts, 7)
    expected = theirs.generate_preprocess(texts, sequence_length=7)
    assert_same(found, {name: np.asarray(value) for name, value in expected.items()})
    first = preprocessor.generate_preprocess(texts[0], 7)
    assert all(torch.equal(one, found[name][:1]) for name, one in first.items())
    texts = ["of ASCII alone", "since KerasHub decodes", "no part of a character"]
    ids = {"token_ids": preprocessor(texts)[0]["token_ids"]}
    ids["padding_mask"] = torch.tensor([[0] * 3 + [1] * 9] * len(texts))
    expected = theirs.generate_postprocess({name: one.numpy() for name, one in ids.items()})
    assert preprocessor.generate_postprocess(ids) == expected
    for text, length, message in (("a", None, "sequence_length"), ("", 3, "at least one token")):
        with pytest.raises(ValueError, match=message):
            preprocessor.generate_preprocess([text], length)


@pytest.mark.parametrize("name", [*TEXT_ONLY, "RWKV7CausalLMPreprocessor"])
def test_every_backbone_takes_them(name: str) -> None:
    """Just as they are; and a worker can be given the preprocessor."""
    preprocessor = pickle.loads(pickle.dumps(built(name)[0]))
    config = next(case for case in all_cases() if case.cls == preprocessor.backbone).config
    config = {**config, "vocabulary_size": preprocessor.tokenizer.vocabulary_size() + 3}
    with torch.device("meta"):
        model = getattr(models, preprocessor.backbone)(**config).eval()
    texts: list[Any] = ["a sentence", "another one", ""]
    if "Seq2Seq" in name:
        texts = [{"encoder_text": text, "decoder_text": "x"} for text in texts]
        preprocessor.encoder_sequence_length = 7
    preprocessor.sequence_length = 7
    found = preprocessor(texts)
    inputs = torch.utils._pytree.tree_map(lambda one: one.to("meta"), found)
    outputs = model(inputs)
    first = next(iter(outputs.values())) if isinstance(outputs, dict) else outputs
    assert first.shape[0] == 3


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("GPT2CausalLMPreprocessor", {"sequence_length": 10**12}, "from 0 to 16,777,216"),
        ("BertMaskedLMPreprocessor", {"mask_selection_length": 10**9}, "from 0 to 16,777,216"),
        ("GPT2CausalLMPreprocessor", {"tokenizer": None}, "tokenizer must be Tokenizer, not None"),
    ],
)
def test_files_of_strangers(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    built(name)[0].save_to_preset(tmp_path)
    config = json.loads((tmp_path / "preprocessor.json").read_text())
    config["config"] |= changes
    (tmp_path / "preprocessor.json").write_text(json.dumps(config))
    with pytest.raises((ValueError, TypeError), match=message):
        models.Preprocessor.from_preset(tmp_path)
