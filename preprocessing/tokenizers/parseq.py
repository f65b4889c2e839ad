"""PARSeq's tokenizer (arXiv:2207.06966): characters of signs."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .base import Tokenizer, lines_of, named, read_asset

CHARACTERS = (
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
)


class PARSeqTokenizer(Tokenizer):
    """Characters; others are left out.

    Args:
        vocabulary: the characters, or the file with one in each line.
        remove_whitespace: whether spaces are left out before.
        normalize_unicode: whether accents are taken from their letters (NFKD).
        max_label_length: longer text is cut.
    """

    keras_module = "keras_hub.src.models.parseq.parseq_tokenizer"
    assets = ("vocabulary.txt",)
    unsaved = ("vocabulary",)
    lost = ("remove_whitespace", "normalize_unicode", "max_label_length")
    special = named(start_token="[B]", end_token="[E]", pad_token="[P]")

    def __init__(
        self,
        vocabulary: str | os.PathLike[str] | Iterable[str] | None = tuple(CHARACTERS),
        remove_whitespace: bool = True,
        normalize_unicode: bool = True,
        max_label_length: int = 25,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.remove_whitespace = remove_whitespace
        self.normalize_unicode = normalize_unicode
        self.max_label_length = max_label_length
        self.vocabulary: str | None = None
        self.set_vocabulary(vocabulary)

    def set_vocabulary(self, vocabulary: str | os.PathLike[str] | Iterable[str] | None) -> None:
        """Take characters, or the file with one in each line."""
        if vocabulary is None:
            self.vocabulary = None
            return
        if isinstance(vocabulary, (str, os.PathLike)):
            vocabulary = [line.rstrip() for line in lines_of(read_asset(Path(vocabulary)))]
        self.vocabulary = "".join(vocabulary)
        self.tokens = ("[E]", *self.vocabulary, "[B]", "[P]")
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            raise ValueError("The vocabulary has a character twice.")
        for name, token in self.special.items():
            setattr(self, f"{name}_id", self.ids[token])

    @property
    def has_vocabulary(self) -> bool:
        return self.vocabulary is not None

    def get_vocabulary(self) -> list[str]:
        self.check_vocabulary()
        return list(self.vocabulary or "")

    def vocabulary_size(self) -> int:
        self.check_vocabulary()
        return len(self.tokens)

    def id_to_token(self, id: int) -> str:
        if not 0 <= id < self.vocabulary_size():
            raise ValueError(f"id must be from 0 to {len(self.tokens) - 1}, not {id}.")
        return self.tokens[id]

    def token_to_id(self, token: str) -> int:
        self.check_vocabulary()
        if token not in self.ids:
            raise ValueError(f"The vocabulary has no character {token!r}.")
        return self.ids[token]

    def encode(self, texts: Sequence[str], special: bool | None) -> list[list[Any]]:
        rows = [self.cleaned(text) for text in texts]
        return rows if self.dtype == "string" else [[self.ids[one] for one in row] for row in rows]

    def cleaned(self, text: str) -> list[Any]:
        """The characters of a text that are in the vocabulary."""
        characters = self.vocabulary or ""
        if self.remove_whitespace:
            text = re.sub(r"[ \t\n\r\f]+", "", text)
        if self.normalize_unicode:
            text = re.sub("[^!-~]", "", unicodedata.normalize("NFKD", text))
        if characters == characters.lower():
            text = text.translate({code: code + 32 for code in range(65, 91)})
        elif characters == characters.upper():
            text = text.translate({code: code - 32 for code in range(97, 123)})
        return [one for one in text if one in self.ids][: self.max_label_length]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[list[str]]:
        """The characters of each row, as in KerasHub."""
        known = range(len(self.tokens))
        return [[self.tokens[id] if id in known else "[P]" for id in row] for row in rows]

    def set_assets(self, contents: Sequence[bytes]) -> None:
        self.set_vocabulary([line.rstrip() for line in lines_of(contents[0])])

    def asset_contents(self) -> Sequence[bytes]:
        return ["".join(f"{one}\n" for one in self.get_vocabulary()).encode()]
