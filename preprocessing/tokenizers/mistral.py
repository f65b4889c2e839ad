"""Mistral's tokenizers: SentencePiece, then Tekken (byte pairs)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .._libraries import library
from .base import named
from .byte_pair import BytePairTokenizer
from .sentence_piece import SentencePieceTokenizer

# Those of Mistral's own releases, which cut any text at once.
KNOWN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
SECONDS = 5.0


class MistralTokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "MistralBackbone"
    templates = ("start $A", "start $A start $B:1")
    special = named(start_token="<s>", end_token="</s>")


class MistralTekkenTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`.

    Args:
        split_pattern: what words are, a regular expression. One that is not Mistral's own has five
            seconds for a text.
    """

    backbone = "MistralBackbone"
    special = named(start_token="<s>", end_token="</s>")
    unsaved = (*BytePairTokenizer.unsaved, "unsplittable_tokens")
    split_pattern: str | None

    def __init__(
        self,
        vocabulary: Any = None,
        merges: Any = None,
        split_pattern: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.split_pattern = split_pattern
        super().__init__(vocabulary, merges, **kwargs)

    @property
    def is_known(self) -> bool:
        return self.split_pattern is None or self.split_pattern in KNOWN

    def cutter(self, tokenizers: Any) -> Any:
        if self.is_known:
            return super().cutter(tokenizers)
        return tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def encode(self, texts: Sequence[str], special: bool | None) -> list[list[Any]]:
        if self.is_known:
            return super().encode(texts, special)
        whole = () if special is False else self.unsplittable_tokens
        words = [[*self.words(text, tuple(whole))] for text in texts]
        return self.encoded(words, special, is_pretokenized=True)

    def words(self, text: str, whole: Sequence[str]) -> Iterator[str]:
        """A text cut in pieces, special tokens whole."""
        regex = library("regex", "text")
        try:
            pattern = regex.compile(self.split_pattern)
            special = "|".join(map(regex.escape, whole))
            for i, part in enumerate(regex.split(f"({special})", text) if whole else [text]):
                if i % 2:
                    yield part
                    continue
                end = 0
                for match in pattern.finditer(part, timeout=SECONDS):
                    yield from filter(None, (part[end : match.start()], match[0]))
                    end = match.end()
                yield from filter(None, (part[end:],))
        except TimeoutError as error:
            raise ValueError(f"split_pattern needs more than {SECONDS} s for a text.") from error
        except regex.error as error:
            raise ValueError(f"split_pattern is no regular expression: {error}.") from error
