"""WordPiece (Song et al., 2020, arXiv:2012.15524), cut and folded as KerasHub does it."""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._libraries import library
from .base import Tokenizer, lines_of, read_asset
from .cutting import Step, complete, in_library, replace, split
from .foreign import Foreign

MAX_WORD_BYTES = 100
# Spaces of ASCII, control and format characters go; no other spaces cut.
SPACES = r" \t\n\r\f\p{Cc}\p{Cf}"
PUNCTUATION = r"!-/:-@\[-`{-~\p{P}"
CJK = (
    r"\u4E00-\u9FFF\u3400-\u4DBF\U00020000-\U0002A6DF\U0002A700-\U0002B73F"
    r"\U0002B740-\U0002B81F\U0002B820-\U0002CEAF\uF900-\uFAFF\U0002F800-\U0002FA1F"
)
# The same for text of ASCII alone, at three times the speed.
ASCII_WORDS = re.compile(r"[!-/:-@\[-`{-~]|[0-9A-Za-z]+").findall
# Default_Ignorable_Code_Point of Unicode.
IGNORABLE = dict.fromkeys(
    code
    for first, last in (
        *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5)),
        *((0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F)),
        *((0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0)),
        *((0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
    )
    for code in range(first, last + 1)
)
CACHED_WORDS = 2**16
# What case folding makes of letters that stay as they are in lower case.
FOLDED = (("ß", "ss"), ("ς", "σ"))
ACCENTS = replace(r"\p{Mn}", "")
# Steps of others that the constructor's arguments stand for.
KNOWN_STEPS = ("BertNormalizer", "NFD", "NFKC", "StripAccents", "Lowercase", "BertPreTokenizer")
ONIGURUMA = r"!-/:-@\[-`{-~\p{P}"


class WordPieceTokenizer(Tokenizer):
    """Words, and pieces of words that begin with `##`.

    Args:
        vocabulary: the tokens, or the file with one in each line.
        sequence_length: rows are cut or filled with 0 to it.
        lowercase: whether words are case-folded and normalized (NFKC); accents stay.
        strip_accents: whether accents are removed.
        split: whether text is cut into words; otherwise a string is a word and a list of them a
            text.
        split_on_cjk: whether Chinese characters are words of their own.
        suffix_indicator: what pieces that do not begin a word begin with.
        oov_token: stands for words that have no pieces.
        special_tokens: more tokens that text may have whole.
        special_tokens_in_strings: whether special tokens in text are tokens.
    """

    keras_module = "keras_hub.src.tokenizers.word_piece_tokenizer"
    assets = ("vocabulary.txt",)
    lost = ("split_on_cjk",)

    def __init__(
        self,
        vocabulary: str | os.PathLike[str] | Iterable[str] | None = None,
        sequence_length: int | None = None,
        lowercase: bool = False,
        strip_accents: bool = False,
        split: bool = True,
        split_on_cjk: bool = True,
        suffix_indicator: str = "##",
        oov_token: str = "[UNK]",
        special_tokens: Sequence[str] | None = None,
        special_tokens_in_strings: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sequence_length = sequence_length
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.split = split
        self.split_on_cjk = split_on_cjk
        self.suffix_indicator = suffix_indicator
        self.oov_token = oov_token
        self.more_special_tokens = special_tokens
        self.special_tokens_in_strings = special_tokens_in_strings
        self.vocabulary: list[str] | None = None
        self.set_vocabulary(vocabulary)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "vocabulary": None,  # an asset
            "special_tokens": self.more_special_tokens,
        }

    def set_vocabulary(self, vocabulary: str | os.PathLike[str] | Iterable[str] | None) -> None:
        """Take the tokens, or the file with one in each line, as vocabulary."""
        if vocabulary is None:
            self.vocabulary = None
            return
        if isinstance(vocabulary, (str, os.PathLike)):
            self.set_assets([read_asset(Path(vocabulary))])
            return
        self.vocabulary = list(vocabulary)
        self.ids = {token: i for i, token in enumerate(self.vocabulary)}
        if self.oov_token not in self.ids:
            raise ValueError(f"oov_token is {self.oov_token!r}, which the vocabulary has not.")
        self.longest = max(map(len, self.ids))
        self.word = functools.lru_cache(CACHED_WORDS)(self.pieces)
        self.update_special_tokens()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "word"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.word = functools.lru_cache(CACHED_WORDS)(self.pieces)

    def set_assets(self, contents: Sequence[bytes]) -> None:
        lines = lines_of(contents[0])
        if len(set(lines)) < len(lines):
            twice = Counter(lines).most_common(1)[0][0]
            raise ValueError(f"The vocabulary has the token {twice!r} twice.")
        self.set_vocabulary([line.rstrip() for line in lines])

    def asset_contents(self) -> Sequence[bytes]:
        return ["".join(f"{token}\n" for token in self.get_vocabulary()).encode()]

    @property
    def has_vocabulary(self) -> bool:
        return self.vocabulary is not None

    def get_vocabulary(self) -> list[str]:
        self.check_vocabulary()
        assert self.vocabulary is not None
        return self.vocabulary

    def id_to_token(self, id: int) -> str:
        if not 0 <= id < self.vocabulary_size():
            raise ValueError(f"id must be from 0 to {self.vocabulary_size() - 1}, not {id}.")
        return self.get_vocabulary()[id]

    def token_to_id(self, token: str) -> int:
        self.check_vocabulary()
        if token not in self.ids:
            raise ValueError(f"The vocabulary has no token {token!r}.")
        return self.ids[token]

    @property
    def padding(self) -> int:
        return 0

    # Transformers

    @classmethod
    def reads(cls, files: Foreign) -> bool:
        return files.kind == "WordPiece" or (not files.kind and files.source.has("vocab.txt"))

    @classmethod
    def arguments_of(cls, files: Foreign) -> dict[str, Any]:
        path = files.first("vocab.txt")
        if path is None:
            ids = {**files.model["vocab"], **files.added}
            tokens = sorted(ids, key=lambda token: int(ids[token]))
        else:
            tokens = [line.rstrip() for line in lines_of(read_asset(path))]
        found: dict[str, Any] = {"vocabulary": tokens}
        theirs = {
            "oov_token": files.model.get("unk_token") or files.token("unk_token"),
            "suffix_indicator": files.model.get("continuing_subword_prefix"),
        }
        found |= {name: value for name, value in theirs.items() if isinstance(value, str)}
        return found | cls.folding_arguments(files)

    @classmethod
    def folding_arguments(cls, files: Foreign) -> dict[str, Any]:
        """Those that say how text is folded and cut; a warning says what they cannot."""
        config, steps = files.config, files.steps("normalizer")
        lowercase, accents = config.get("do_lower_case"), config.get("strip_accents")
        chinese = config.get("tokenize_chinese_chars")
        for step in steps:
            if step["type"] == "BertNormalizer":
                lowercase, accents = step.get("lowercase"), step.get("strip_accents")
                chinese = step.get("handle_chinese_chars")
                accents = lowercase if accents is None else accents
        if steps and steps[0]["type"] != "BertNormalizer":
            lowercase = any(step["type"] == "Lowercase" for step in steps)
            accents = ACCENTS in steps or any(step["type"] == "StripAccents" for step in steps)
        found = {
            "lowercase": bool(lowercase),
            "strip_accents": bool(lowercase if accents is None else accents),
            "split_on_cjk": chinese is not False,
        }
        cuts = files.steps("pre_tokenizer")
        own = [complete(*folding_steps(**{**found, "split_on_cjk": cjk})) for cjk in (True, False)]
        if (steps, cuts) == own[1]:
            return found | {"split_on_cjk": False}
        if (steps, cuts) != own[0]:
            names = [one["type"] for one in (*steps, *cuts) if one["type"] not in KNOWN_STEPS]
            if names:
                files.warn(f"{cls.__name__} knows no {', '.join(names)}: text is cut without it.")
        return found

    def to_library(self) -> Any:
        """Where it differs, unusual characters are normalized before text is cut."""
        tokenizers = library("tokenizers", "text")
        model = tokenizers.models.WordPiece(
            self.ids,
            unk_token=self.oov_token,
            continuing_subword_prefix=self.suffix_indicator,
            max_input_chars_per_word=MAX_WORD_BYTES,
        )
        found = tokenizers.Tokenizer(model)
        steps = folding_steps(self.lowercase, self.strip_accents, self.split_on_cjk)
        found.normalizer, found.pre_tokenizer = in_library(*steps)
        found.decoder = tokenizers.decoders.WordPiece(self.suffix_indicator, cleanup=False)
        found.add_special_tokens(self.special_tokens)
        return found

    # Text

    def flatten(self, inputs: Any, texts: list[Any]) -> Any:
        if self.split:
            return super().flatten(inputs, texts)
        nested = isinstance(inputs, (list, tuple, np.ndarray)) and len(inputs) > 0
        if nested and not isinstance(inputs[0], str):
            return [self.flatten(one, texts) for one in inputs]
        words: list[str] = []
        super().flatten(inputs, words)
        texts.append(words)
        return None

    def encode(self, texts: Sequence[Any], special: bool | None) -> list[list[Any]]:
        special = self.special_tokens_in_strings if special is None else special
        specials = (*self.special_tokens, *(self.more_special_tokens or ())) if special else ()
        cut = cutter(self.split_on_cjk, specials) if self.split else None
        rows = []
        for text in texts:
            if self.strip_accents:
                text = without_accents(text) if self.split else [*map(without_accents, text)]
            words = text
            if cut is not None:
                words = ASCII_WORDS(text) if text.isascii() and not specials else cut(text)
            fold = self.lowercase
            ids = [id for word in words for id in self.word(word, fold and word not in specials)]
            rows.append([self.id_to_token(id) for id in ids] if self.dtype == "string" else ids)
        return rows

    def pieces(self, word: str, fold: bool) -> tuple[int, ...]:
        """Ids of the longest pieces of a word, from its beginning on."""
        if fold:
            word = folded(word)
        if not word:
            return ()
        ids, unknown = self.ids, (self.ids[self.oov_token],)
        if len(word.encode()) > MAX_WORD_BYTES:
            return unknown
        found: list[int] = []
        start, prefix = 0, ""
        while start < len(word):
            end = min(len(word), start + self.longest)
            while (id := ids.get(prefix + word[start:end])) is None:
                end -= 1
                if end == start:
                    return unknown
            found.append(id)
            start, prefix = end, self.suffix_indicator
        return tuple(found)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [self.joined([self.id_to_token(id) for id in row]) for row in rows]

    def joined(self, tokens: Sequence[str]) -> str:
        """Words with a space between them; a piece that has none before it stays as it is."""
        words: list[str] = []
        for token in tokens:
            rest = token.removeprefix(self.suffix_indicator)
            if words and rest and rest != token:
                words[-1] += rest
            else:
                words.append(token)
        return " ".join(words)


def folding_steps(
    lowercase: bool, strip_accents: bool, split_on_cjk: bool
) -> tuple[list[Step], list[Step]]:
    """What is done to text, and what cuts it, as steps of the `tokenizers` library."""
    steps: list[Step] = [{"type": "NFD"}, ACCENTS] if strip_accents else []
    if lowercase:
        steps += [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "NFKC"}]
        steps += [replace(r"[\p{Default_Ignorable_Code_Point}&&\P{Cf}]", "")]
        folded = ({"type": "Replace", "pattern": {"String": a}, "content": b} for a, b in FOLDED)
        steps += folded
    mark = ONIGURUMA + (cjk_of_oniguruma() if split_on_cjk else "")
    return steps, [split(r"[ \t\n\r\f\p{Cc}\p{Cf}]", "Removed"), split(f"[{mark}]")]


@functools.lru_cache(32)
def cutter(split_on_cjk: bool, specials: tuple[str, ...]) -> Callable[[str], list[str]]:
    """What gives the words of a text: special tokens, marks, and what is between them."""
    regex = library("regex", "text")
    mark = PUNCTUATION + (CJK if split_on_cjk else "")
    if not specials:
        return regex.compile(f"[{mark}]|[^{SPACES}{mark}]+").findall
    whole = "|".join(regex.escape(token) for token in sorted(specials, key=len, reverse=True))
    return regex.compile(f"{whole}|[{mark}]|(?:(?!{whole})[^{SPACES}{mark}])+").findall


def cjk_of_oniguruma() -> str:
    """The ranges with their characters, since that library knows no such escapes."""
    code = re.compile(r"\\u([0-9A-F]{4})|\\U([0-9A-F]{8})")
    return code.sub(lambda match: chr(int(match[1] or match[2], 16)), CJK)


def without_accents(text: str) -> str:
    """Letters without the marks that are on them."""
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(one for one in decomposed if unicodedata.category(one) != "Mn")


def folded(word: str) -> str:
    """NFKC_Casefold of Unicode, but for what normalization changes behind it."""
    word = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())
    return word.translate(IGNORABLE)
