"""Whisper's tokenizer (arXiv:2212.04356)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import named, read_asset
from .byte_pair import BytePairTokenizer, check_vocabulary, read_vocabulary
from .foreign import Foreign

# Tokens that stand for no text; those of languages; how many there are of times, up to 30 s.
MARK, LANGUAGE, TIMES = re.compile(r"<\|.*\|>"), re.compile(r"<\|[a-z]{2,3}\|>"), 1501
END_OF_ENGLISH = 50_256  # its id in models that know no other language, whatever their tokens


class WhisperTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`. The vocabulary's files have no special tokens.

    Args:
        special_tokens: token → id, or the JSON file of it.
        language_tokens: those of languages, `<|en|>`; or the file; `None` of English models.
    """

    backbone = "WhisperBackbone"
    templates = ("bos no_timestamps $A eos", "bos no_timestamps $A $B:1 eos")
    special = named(
        bos_token="<|startoftranscript|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        no_timestamps_token="<|notimestamps|>",
        translate_token="<|translate|>",
        transcribe_token="<|transcribe|>",
    )

    def __init__(
        self,
        vocabulary: Any = None,
        merges: Any = None,
        special_tokens: str | os.PathLike[str] | Mapping[str, int] | None = None,
        language_tokens: str | os.PathLike[str] | Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        self.numbered = _numbers(special_tokens or {})
        self.language_tokens = None if language_tokens is None else _numbers(language_tokens)
        missing = [token for token in self.special.values() if token not in self.numbered]
        if missing:
            raise ValueError(f"special_tokens lacks {', '.join(dict.fromkeys(missing))}.")
        super().__init__(vocabulary, merges, **kwargs)
        for name, token in self.special.items():
            setattr(self, f"{name}_id", self.numbered[token])

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"special_tokens": self.numbered}

    @property
    def special_tokens(self) -> list[str]:
        return list(self.numbered)

    @property
    def special_token_ids(self) -> list[int]:
        return list(self.numbered.values())

    def set_vocabulary_and_merges(self, vocabulary: Any, merges: Any) -> None:
        if isinstance(vocabulary, (str, os.PathLike)):
            vocabulary = read_vocabulary(read_asset(Path(vocabulary)))
        self.own_vocabulary = vocabulary
        if vocabulary is not None:
            ours = {token: self.numbered[token] for token in self.special.values()}
            vocabulary = {**vocabulary, **(self.language_tokens or {}), **ours}
        super().set_vocabulary_and_merges(vocabulary, merges)

    def pieces(self) -> dict[str, int]:
        return check_vocabulary({**self.get_vocabulary(), **self.numbered})

    def update_special_tokens(self) -> None:
        """Their ids are those given."""

    # Transformers

    @classmethod
    def arguments_of(cls, files: Foreign) -> dict[str, Any]:
        found = super().arguments_of(files)
        marks = {**found["special_tokens"], **(found["language_tokens"] or {})}
        plain = {token: id for token, id in found["vocabulary"].items() if token not in marks}
        return {**found, "vocabulary": plain, "unsplittable_tokens": list(marks)}

    @classmethod
    def special_arguments(cls, files: Foreign, vocabulary: Mapping[str, int]) -> dict[str, Any]:
        marks = {token: id for token, id in vocabulary.items() if MARK.fullmatch(token)}
        languages = {token: id for token, id in marks.items() if LANGUAGE.fullmatch(token)}
        if marks.get("<|endoftext|>") == END_OF_ENGLISH:
            return {"special_tokens": marks, "language_tokens": None}
        others = {token: id for token, id in marks.items() if token not in languages}
        return {"special_tokens": others, "language_tokens": languages or None}

    def to_transformers(self) -> Iterator[tuple[str, bytes | dict[str, Any]]]:
        """With all marks of time, which KerasHub's vocabularies leave out."""
        files = dict(super().to_transformers())
        content = files["tokenizer.json"]
        assert isinstance(content, bytes)
        described = json.loads(content)
        first = self.numbered["<|notimestamps|>"] + 1
        times = {f"<|{i * 0.02:.2f}|>": first + i for i in range(TIMES)}
        marks = {**self.numbered, **(self.language_tokens or {})}
        taken = {*self.pieces().values()}
        marks |= {token: id for token, id in times.items() if id not in taken}
        described["model"]["vocab"] |= marks
        described["added_tokens"] = [
            {
                "id": id,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": token not in times,
            }
            for token, id in sorted(marks.items(), key=lambda item: item[1])
        ]
        yield "tokenizer.json", json.dumps(described, indent=2).encode()
        config = files["tokenizer_config.json"]
        assert isinstance(config, dict)
        end = {f"{name}_token": "<|endoftext|>" for name in ("bos", "eos", "unk", "pad")}
        yield "tokenizer_config.json", {**config, **end, "tokenizer_class": "WhisperTokenizer"}

    def asset_contents(self) -> Sequence[bytes]:
        return json.dumps(self.own_vocabulary).encode(), super().asset_contents()[1]


def _numbers(tokens: Any) -> dict[str, int]:
    if isinstance(tokens, (str, os.PathLike)):
        return read_vocabulary(read_asset(Path(tokens)))
    return check_vocabulary(tokens)
