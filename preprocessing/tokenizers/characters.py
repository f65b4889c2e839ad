"""Tokenizers without a vocabulary: bytes, and code points."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Sequence
from typing import Any

from .base import Tokenizer
from .word_piece import folded

REPLACEMENT = 0xFFFD


class CharacterTokenizer(Tokenizer):
    """What both have in common.

    Args:
        sequence_length: rows are cut or filled with 0 to it.
        lowercase: whether text is case-folded.
        normalization_form: `NFC`, `NFKC`, `NFD` or `NFKD`, if text is normalized.
        errors: `replace`, `ignore` or `strict`, of ids that make no text.
        replacement_char: code point in their place.
    """

    def __init__(
        self,
        sequence_length: int | None,
        lowercase: bool,
        normalization_form: str | None,
        errors: str,
        replacement_char: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        forms = (None, "NFC", "NFKC", "NFD", "NFKD")
        if normalization_form not in forms:
            raise ValueError(f"normalization_form must be of {forms}, not {normalization_form!r}.")
        if errors not in ("strict", "replace", "ignore"):
            raise ValueError(f"errors must be 'strict', 'replace' or 'ignore', not {errors!r}.")
        if self.dtype == "string":
            raise ValueError(f"dtype must be an integer type, not {self.dtype!r}.")
        self.sequence_length = sequence_length
        self.lowercase = lowercase
        self.normalization_form = normalization_form
        self.errors = errors
        self.replacement_char = replacement_char

    @property
    def padding(self) -> int:
        return 0

    def normalized(self, text: str) -> str:
        text = folded(text) if self.lowercase else text
        form: Any = self.normalization_form
        return unicodedata.normalize(form, text) if form is not None else text

    def get_vocabulary(self) -> dict[str, int]:
        return {chr(i): i for i in range(self.vocabulary_size())}

    def id_to_token(self, id: int) -> str:
        if not 0 <= id < self.vocabulary_size():
            raise ValueError(f"id must be from 0 to {self.vocabulary_size() - 1}, not {id}.")
        return chr(id)

    def token_to_id(self, token: str) -> int:
        if ord(token) >= self.vocabulary_size():
            raise ValueError(f"{token!r} is beyond the vocabulary.")
        return ord(token)


class ByteTokenizer(CharacterTokenizer):
    """The bytes of UTF-8; see `CharacterTokenizer`."""

    keras_module = "keras_hub.src.tokenizers.byte_tokenizer"

    def __init__(
        self,
        lowercase: bool = True,
        sequence_length: int | None = None,
        normalization_form: str | None = None,
        errors: str = "replace",
        replacement_char: int = REPLACEMENT,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sequence_length, lowercase, normalization_form, errors, replacement_char, **kwargs
        )

    def vocabulary_size(self) -> int:
        return 256

    def encode(self, texts: Sequence[str], special: bool | None) -> list[list[Any]]:
        return [list(self.normalized(text).encode()) for text in texts]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [self._text(bytes(self.token_to_id(chr(id)) for id in row if id)) for row in rows]

    def _text(self, content: bytes) -> str:
        errors = self.errors
        if errors == "replace" and self.replacement_char != REPLACEMENT:
            errors = f"keras_hub_torch_{self.replacement_char}"
            mark = chr(self.replacement_char)
            codecs.register_error(errors, lambda error: (mark, error.end))  # type: ignore[attr-defined]
        return content.decode(errors=errors)


class UnicodeCodepointTokenizer(CharacterTokenizer):
    """Code points; see `CharacterTokenizer`.

    Args:
        input_encoding: of text given as bytes in KerasHub; without effect.
        output_encoding: as well.
        vocabulary_size: code points beyond it become the last one within.
    """

    keras_module = "keras_hub.src.tokenizers.unicode_codepoint_tokenizer"

    def __init__(
        self,
        sequence_length: int | None = None,
        lowercase: bool = True,
        normalization_form: str | None = None,
        errors: str = "replace",
        replacement_char: int = REPLACEMENT,
        input_encoding: str = "UTF-8",
        output_encoding: str = "UTF-8",
        vocabulary_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sequence_length, lowercase, normalization_form, errors, replacement_char, **kwargs
        )
        self.input_encoding = input_encoding
        self.output_encoding = output_encoding
        self.size = vocabulary_size

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"vocabulary_size": self.size}

    def vocabulary_size(self) -> int:
        return 0x110000 if self.size is None else self.size

    def encode(self, texts: Sequence[str], special: bool | None) -> list[list[Any]]:
        last = self.vocabulary_size() - 1
        return [[min(ord(one), last) for one in self.normalized(text)] for text in texts]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return ["".join(self.character(id) for id in row if id) for row in rows]

    def character(self, id: int) -> str:
        if 0 <= id < 0x110000 and not 0xD800 <= id < 0xE000:
            return chr(id)
        if self.errors == "strict":
            raise ValueError(f"{id} is no code point.")
        return chr(self.replacement_char) if self.errors == "replace" else ""
