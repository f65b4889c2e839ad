"""Texts per second: this package, KerasHub's two ways, and transformers' fast tokenizer, in turn.

Vocabularies are trained on lines of Python's own documentation, which are the texts, too. Each
takes one batch of them; TensorFlow, which is slow at byte pairs, a part of it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pydoc
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras_hub
import sentencepiece
import tokenizers
import transformers

from keras_hub_torch import tokenizers as ours

FEW = 200  # for TensorFlow
MODULES = ("argparse", "asyncio", "collections", "datetime", "decimal", "email", "json", "logging")


def lines() -> list[str]:
    text = "\n".join(pydoc.plain(pydoc.render_doc(name)) for name in MODULES)
    return [line for line in text.split("\n") if line.strip()]


def byte_pairs(texts: list[str]) -> tuple[dict[str, int], list[str]]:
    model = tokenizers.ByteLevelBPETokenizer()
    model.train_from_iterator(texts, 8000, show_progress=False, special_tokens=["<|endoftext|>"])
    state = json.loads(model._tokenizer.to_str())["model"]
    return state["vocab"], [" ".join(merge) for merge in state["merges"]]


def sentence_pieces(texts: list[str]) -> bytes:
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=file, vocab_size=4000, minloglevel=3,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False,
    )  # fmt: skip
    return file.getvalue()


def word_pieces(texts: list[str]) -> list[str]:
    model = tokenizers.BertWordPieceTokenizer()
    model.train_from_iterator(texts, 6000, show_progress=False)
    return sorted(model.get_vocab(), key=model.get_vocab().__getitem__)


def fast(tokenizer: Any) -> Callable[[list[str]], Any]:
    return lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"]


def ways(kind: str, texts: list[str]) -> dict[str, Callable[[list[str]], Any]]:
    """What makes ids of texts."""
    if kind == "BPE":
        vocabulary, merges = byte_pairs(texts)
        arguments: tuple[Any, ...] = (vocabulary, merges)
        name, options = "GPT2Tokenizer", {}
        rules = [tuple(merge.split(" ")) for merge in merges]
        theirs = transformers.GPT2Tokenizer(vocab=vocabulary, merges=rules)
    elif kind == "SentencePiece":
        arguments, name, options = (sentence_pieces(texts),), "T5Tokenizer", {}
        model = sentencepiece.SentencePieceProcessor(model_proto=arguments[0])
        pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(len(model))]
        theirs = transformers.T5Tokenizer(vocab=pieces)
    else:
        arguments, name, options = (word_pieces(texts),), "BertTokenizer", {"lowercase": True}
        vocabulary = {token: i for i, token in enumerate(arguments[0])}
        theirs = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=True)
    cls = getattr(keras_hub.tokenizers, name)
    return {
        "here": getattr(ours, name)(*arguments, **options),
        "transformers": fast(theirs),
        "KerasHub, eager": cls(*arguments, **options),
        "KerasHub, TensorFlow": cls(*arguments, **options, _allow_python_workflow=False),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--texts", type=int, default=4000)
    arguments = parser.parse_args()
    texts = lines()[: arguments.texts]
    print(f"{len(texts)} lines, {sum(map(len, texts)) / len(texts):.0f} characters each")
    for kind in ("BPE", "SentencePiece", "WordPiece"):
        rates: dict[str, list[float]] = {}
        for name, encode in ways(kind, texts).items():
            given = texts[:FEW] if "TensorFlow" in name else texts
            for i in range(arguments.runs + 1):
                # New text each time: no cache of words may do all the work.
                changed = [f"{text} {i}x{len(text)}" for text in given]
                start = time.perf_counter()
                encode(changed)
                if i:  # the first one warms up
                    seconds = time.perf_counter() - start
                    rates.setdefault(name, []).append(len(given) / seconds)
        print(kind)
        for name, values in rates.items():
            print(f"    {name:22}{statistics.median(values):12,.0f} texts/s")


if __name__ == "__main__":
    main()
