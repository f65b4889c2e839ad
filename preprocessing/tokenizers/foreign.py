"""The tokenizer's files of a checkpoint of transformers."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...presets.checkpoints import TRANSFORMERS, dialect_of
from ...presets.checkpoints.dialect import find_table
from ...presets.files import CONFIG, refuse_pointer
from ...presets.sources import PresetSource
from .._libraries import library
from .cutting import Step, flat

MAX_JSON_BYTES = 128 * 1024**2
# Of a token, in the words of the `tokenizers` library.
OPTIONS = ("lstrip", "rstrip", "single_word")
MAX_CONFIG_BYTES = 16 * 1024**2  # Gemma's lists all added tokens


class Foreign:
    """What they say, whichever of them there are.

    Attributes:
        source: that has them.
    """

    def __init__(self, source: PresetSource) -> None:
        self.source = source

    @property
    def is_foreign(self) -> bool:
        """Whether they are transformers' at all."""
        source = self.source
        return source.has(CONFIG) and dialect_of(source.json(CONFIG)) is TRANSFORMERS

    @property
    def backbone(self) -> str:
        """Name of the class of the model."""
        kind = TRANSFORMERS.kind(self.source.json(CONFIG))
        return find_table(TRANSFORMERS, kind, self.source.handle).backbone.__name__

    def first(self, *names: str) -> Path | None:
        """The first of these files that there is."""
        return next((self.source.file(name) for name in names if self.source.has(name)), None)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """What `tokenizer_config.json` says."""
        name = "tokenizer_config.json"
        return self.source.json(name, MAX_CONFIG_BYTES) if self.source.has(name) else {}

    @functools.cached_property
    def tokenizer(self) -> dict[str, Any]:
        """What `tokenizer.json`, of the `tokenizers` library, says."""
        path = self.first("tokenizer.json")
        return {} if path is None else json_of(path)

    @property
    def model(self) -> dict[str, Any]:
        found = self.tokenizer.get("model")
        return found if isinstance(found, dict) else {}

    @property
    def kind(self) -> str:
        """`BPE`, `Unigram` or `WordPiece`; empty if nothing says so."""
        return str(self.model.get("type") or "")

    @functools.cached_property
    def added(self) -> dict[str, int]:
        """Tokens beside the vocabulary's, and special ones in it, with their ids."""
        if self.tokenizer:
            entries = self.tokenizer.get("added_tokens") or []
            try:
                return {str(one["content"]): int(one["id"]) for one in entries}
            except (KeyError, TypeError) as error:
                raise ValueError("added_tokens of tokenizer.json are no tokens.") from error
        name = "added_tokens.json"
        return dict(self.source.json(name)) if self.source.has(name) else {}

    @functools.cached_property
    def token_options(self) -> dict[str, list[str]]:
        """Tokens that take spaces beside them in, or that are words alone: which of `OPTIONS`."""
        entries = self.tokenizer.get("added_tokens") if self.tokenizer else None
        if entries is None:
            known = self.config.get("added_tokens_decoder")
            entries = list(known.values()) if isinstance(known, Mapping) else []
        said = {
            str(one.get("content")): [name for name in OPTIONS if one.get(name) is True]
            for one in entries
            if isinstance(one, Mapping)
        }
        return {token: options for token, options in said.items() if options}

    def token(self, name: str) -> str | None:
        """A special token of `tokenizer_config.json`, as `bos_token`."""
        value = self.config.get(name)
        value = value.get("content") if isinstance(value, Mapping) else value
        return value if isinstance(value, str) else None

    def steps(self, part: str) -> list[Step]:
        """The steps, one after the other, of a part of `tokenizer.json`, as `normalizer`."""
        return flat(self.tokenizer.get(part))

    def warn(self, message: str) -> None:
        """Say what of the tokenizer cannot be had here."""
        warnings.warn(f"{self.source.handle}'s tokenizer.json: {message}", stacklevel=2)


def check_options(options: Mapping[str, Sequence[str]] | None) -> None:
    """Raise ValueError for options of tokens that there are none of."""
    for token, names in (options or {}).items():
        unknown = [name for name in names if name not in OPTIONS]
        if unknown or isinstance(names, str):
            raise ValueError(f"token_options of {token!r:.300} must be of {', '.join(OPTIONS)}.")


def added_tokens(tokens: Iterable[str], options: Mapping[str, Sequence[str]] | None) -> list[Any]:
    """Special tokens as the `tokenizers` library has them."""
    kind, known = library("tokenizers", "text").AddedToken, options or {}
    return [
        kind(token, special=True, normalized=False, **dict.fromkeys(known.get(token, ()), True))
        for token in tokens
    ]


def json_of(path: Path) -> dict[str, Any]:
    """The object in a file that holds a vocabulary.

    Raises:
        ValueError: it is too large, or something else.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path} is larger than {MAX_JSON_BYTES:,} bytes.")
    refuse_pointer(path)
    try:
        found = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no JSON object.")
    return found
