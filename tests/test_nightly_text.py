"""What KerasHub 0.33 brings for text and pictures, beside transformers and 0.32's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras_hub
import torch
import transformers

from keras_hub_torch import layers, models, tokenizers
from keras_hub_torch.models import Backbone, ModernBertBackbone

from .nightly.modern_bert import SMALL
from .test_tokenizer_files import TEXTS
from .test_tokenizers import sentence_piece
from .vocabularies import byte_pairs

MARKS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
MASKED = ["A [MASK] b", "a   [MASK][MASK]", "[CLS] [SEP] a\n[MASK]", " [PAD]"]


def modern_bert() -> Any:
    return tokenizers.ModernBertTokenizer(*byte_pairs(*MARKS))


def test_modern_bert_and_transformers(tmp_path: Path) -> None:
    tokenizer = modern_bert()
    config = {**SMALL, "vocabulary_size": tokenizer.vocabulary_size()}
    ModernBertBackbone(**config).save_to_preset(tmp_path / "keras")
    tokenizer.save_to_preset(tmp_path / "keras")
    Backbone.from_preset(tmp_path / "keras").export_to_transformers(tmp_path / "theirs")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    texts = [*TEXTS, *MASKED]
    ids = tokenizer.tokenize(texts)
    begin, end = tokenizer.start_token_id, tokenizer.end_token_id
    for row, expected in zip(theirs(texts)["input_ids"], ids):
        assert row == [begin, *expected, end]
    back = tokenizers.Tokenizer.from_preset(tmp_path / "theirs")
    assert type(back) is tokenizers.ModernBertTokenizer
    assert back.tokenize(texts) == ids
    assert back.special_token_ids == tokenizer.special_token_ids
    assert tokenizer.tokenize("[MASK]", special_tokens_in_strings=False) != ids[-1]


def test_modern_bert_packs() -> None:
    tokenizer = modern_bert()
    preprocessor = models.TextClassifierPreprocessor.for_class("ModernBertBackbone")
    assert preprocessor is models.ModernBertTextClassifierPreprocessor
    inputs = preprocessor(tokenizer, sequence_length=9)((["a b"], ["c"]))
    first, second = tokenizer.tokenize(["a b", "c"])
    row = [tokenizer.cls_token_id, *first, tokenizer.sep_token_id, *second, tokenizer.sep_token_id]
    assert inputs.keys() == {"token_ids", "padding_mask"}
    assert inputs["token_ids"].tolist() == [row + [tokenizer.pad_token_id] * (9 - len(row))]
    backbone = ModernBertBackbone(**{**SMALL, "vocabulary_size": tokenizer.vocabulary_size()})
    assert backbone.eval()(inputs).shape == (1, 9, SMALL["hidden_dim"])
    masked = models.ModernBertMaskedLMPreprocessor(
        tokenizer, sequence_length=9, mask_selection_rate=0.5, mask_selection_length=3
    )
    inputs, labels, weights = masked(["a b c d e f"])
    assert inputs.keys() == {"token_ids", "padding_mask", "mask_positions"}
    assert labels.shape == weights.shape == (1, 3)


def test_gemmas(tmp_path: Path) -> None:
    """They are Gemma 4's."""
    model = sentence_piece("Gemma4Tokenizer")
    theirs = keras_hub.tokenizers.Gemma4Tokenizer(model)
    families = {"EmbeddingGemma2": "embedding_gemma2", "DiffusionGemma": "diffusion_gemma"}
    for name, family in families.items():
        tokenizer = getattr(tokenizers, f"{name}Tokenizer")(model)
        assert tokenizer.tokenize(TEXTS) == [*map(list, theirs.tokenize(TEXTS))]
        tokenizer.save_to_preset(tmp_path / name)
        written = json.loads((tmp_path / name / "tokenizer.json").read_text())
        assert written["module"].rpartition(".")[2] == f"{family}_tokenizer"
        assert type(tokenizers.Tokenizer.from_preset(tmp_path / name)) is type(tokenizer)
    embedder = models.EmbeddingGemma2TextEmbedderPreprocessor(
        tokenizers.EmbeddingGemma2Tokenizer(model), sequence_length=7
    )
    inputs = embedder(["a b"])
    ids = theirs.tokenize("a b")
    row = [theirs.start_token_id, *ids, theirs.end_token_id]
    assert inputs["token_ids"].tolist() == [row + [0] * (7 - len(row))]
    assert torch.equal(inputs["padding_mask"].sum(1), torch.tensor([len(row)]))


def test_converters(tmp_path: Path) -> None:
    """They are Gemma 4's, but that short videos keep their length."""
    sizes = {"patch_size": 2, "max_soft_tokens": 3, "pooling_kernel_size": 2}
    for name in ("EmbeddingGemma2", "DiffusionGemma"):
        converter = getattr(layers, f"{name}ImageConverter")(**sizes)
        converter.save_to_preset(tmp_path / name)
        assert type(layers.ImageConverter.from_preset(tmp_path / name)) is type(converter)
    videos = layers.EmbeddingGemma2VideoConverter(**sizes, max_frames=4)
    assert "num_frames" not in videos.get_config()
    frames = torch.rand(6, 8, 9, 3)
    images = layers.Gemma4ImageConverter(**sizes)
    found = videos([frames, frames[:2]])
    for name, values in found.items():
        assert torch.equal(values[0], images(frames[[0, 1, 3, 5]])[name])
        assert torch.equal(values[1], images(frames[:2])[name])
    assert torch.equal(videos(frames)["pixel_values"][0], found["pixel_values"][0])
