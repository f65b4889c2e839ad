"""Small vocabularies trained on the corpus, one for each kind of tokenizer."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Sequence
from typing import Any

import sentencepiece
import tokenizers

from .text_corpus import PHRASES, SPECIAL_TOKENS, corpus


@functools.cache
def word_pieces(*first: str) -> tuple[str, ...]:
    """A vocabulary of WordPieces that begins with these tokens."""
    texts = corpus(600)
    characters = sorted({one for text in texts for one in text if one.isprintable()} - {" "})
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=1200, show_progress=False)
    model = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token=first[1]))
    model.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    model.train_from_iterator([text.casefold() for text in texts] + list(PHRASES), trainer)
    # TensorFlow cannot take NUL, nor a suffix of nothing.
    trained = sorted(one for one in model.get_vocab() if "\0" not in one and one != "##")
    return tuple(dict.fromkeys((*first, *characters, *trained)))


@functools.cache
def byte_pairs(*special: str, end_of_word: str = "") -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges, the special tokens last."""
    levels = tokenizers.pre_tokenizers.ByteLevel
    suffix = {"end_of_word_suffix": end_of_word} if end_of_word else {}
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1500,
        show_progress=False,
        initial_alphabet=levels.alphabet(),
        **suffix,
    )
    model = tokenizers.Tokenizer(tokenizers.models.BPE(**suffix))
    # Runs that only some families have in one word make rules of both kinds.
    cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r" ?\S+|\s+"), "isolated")
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [cut, levels(add_prefix_space=False, use_regex=False)]
    )
    plain = [text for text in corpus(1200) if not any(token in text for token in SPECIAL_TOKENS)]
    model.train_from_iterator(plain, trainer)
    state = json.loads(model.to_str())["model"]
    merges = [" ".join(merge) for merge in state["merges"]]
    vocabulary = dict(state["vocab"])
    if end_of_word:
        for character in levels.alphabet():
            vocabulary.setdefault(f"{character}{end_of_word}", len(vocabulary))
    for token in special:
        vocabulary.setdefault(token, len(vocabulary))
    return vocabulary, merges


@functools.cache
def sentence_pieces(
    kind: str, control: Sequence[str] = (), defined: Sequence[str] = (), **ids: Any
) -> bytes:
    """The file of a model: `nmt_nfkc`, `nmt_nfkc_cf` or `identity` unigrams, `llama`'s or
    `gemma`'s BPE.
    """
    bpe = kind in ("llama", "gemma")
    options = {
        "model_type": "bpe" if bpe else "unigram",
        "normalization_rule_name": "identity" if bpe else kind,
        "byte_fallback": bpe,
        "add_dummy_prefix": kind != "gemma",
        "remove_extra_whitespaces": not bpe,
    }
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in corpus(500) if text and "\0" not in text]),
        model_writer=file,
        vocab_size=900 if bpe else 1000,
        hard_vocab_limit=False,
        control_symbols=list(control),
        user_defined_symbols=list(defined),
        num_threads=1,
        minloglevel=3,
        character_coverage=0.98,
        **options,
        **ids,
    )
    return file.getvalue()
