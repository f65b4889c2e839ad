"""Whisper's tokenizer (arXiv:2212.04356)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import named, read_asset
from .byte_pair import BytePairTokenizer, check_vocabulary, read_vocabulary


class WhisperTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`. The vocabulary's files have no special tokens.

    Args:
        special_tokens: token → id, or the JSON file of it.
        language_tokens: those of languages, `<|en|>`; or the file; `None` of English models.
    """

    backbone = "WhisperBackbone"
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

    def asset_contents(self) -> Sequence[bytes]:
        return json.dumps(self.own_vocabulary).encode(), super().asset_contents()[1]


def _numbers(tokens: Any) -> dict[str, int]:
    if isinstance(tokens, (str, os.PathLike)):
        return read_vocabulary(read_asset(Path(tokens)))
    return check_vocabulary(tokens)
