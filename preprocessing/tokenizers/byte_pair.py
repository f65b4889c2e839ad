"""Byte-pair encoding of bytes (Radford et al., 2019), each family with its own way to cut text."""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from .._libraries import library
from .base import Tokenizer, lines_of, read_asset
from .foreign import Foreign


class BytePairTokenizer(Tokenizer):
    """Pieces of words, made of bytes by rules that merge two pieces.

    KerasHub cuts text as GPT-2 does, or not at all, whatever the family; here it is cut as the
    family's models were trained.

    Args:
        vocabulary: token → id, or the JSON file of it.
        merges: the rules, two pieces with a space between them, or the file with one in each line.
        sequence_length: rows are cut or filled with the padding token to it.
        add_prefix_space: whether text that begins with no space gets one.
        unsplittable_tokens: tokens that text may have whole; by default the special tokens.

    Attributes:
        split_pattern: what words are, a regular expression; GPT-2's if it is None.
        normalizes: whether text is composed first (NFC).
        prefers_words: whether words in the vocabulary are tokens, whatever the rules say.
    """

    keras_module = "keras_hub.src.tokenizers.byte_pair_tokenizer"
    assets = ("vocabulary.json", "merges.txt")
    unsaved: ClassVar[Sequence[str]] = ("vocabulary", "merges")
    split_pattern: str | None = None
    normalizes: ClassVar[bool] = False
    prefers_words: ClassVar[bool] = False

    def __init__(
        self,
        vocabulary: str | os.PathLike[str] | Mapping[str, int] | None = None,
        merges: str | os.PathLike[str] | Iterable[str] | None = None,
        sequence_length: int | None = None,
        add_prefix_space: bool = False,
        unsplittable_tokens: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sequence_length = sequence_length
        self.add_prefix_space = add_prefix_space
        if unsplittable_tokens is None:
            unsplittable_tokens = self.special_tokens
        self.unsplittable_tokens = list(unsplittable_tokens)
        self.vocabulary: dict[str, int] | None = None
        self.merges: list[str] | None = None
        self.set_vocabulary_and_merges(vocabulary, merges)

    def set_vocabulary_and_merges(
        self,
        vocabulary: str | os.PathLike[str] | Mapping[str, int] | None,
        merges: str | os.PathLike[str] | Iterable[str] | None,
    ) -> None:
        """Take tokens and rules, or the files of them.

        Raises:
            ValueError: rules that merge what is no token, or other nonsense.
        """
        if vocabulary is None or merges is None:
            self.vocabulary = self.merges = None
            return
        if isinstance(vocabulary, (str, os.PathLike)):
            vocabulary = read_vocabulary(read_asset(Path(vocabulary)))
        if isinstance(merges, (str, os.PathLike)):
            merges = [line.rstrip() for line in lines_of(read_asset(Path(merges)))]
        self.vocabulary, self.merges = check_vocabulary(vocabulary), list(merges)
        self.__dict__.pop("plain_library", None)
        self.library = self.built(self.unsplittable_tokens)
        self.update_special_tokens()

    def built(self, whole: Sequence[str]) -> Any:
        """The tokenizer of the library, for which these tokens are whole in text."""
        tokenizers = library("tokenizers", "text")
        try:
            found = tokenizers.Tokenizer(self.model(tokenizers.models))
        except Exception as error:  # the library's own kind is no other
            raise ValueError(f"Vocabulary and merges do not fit: {error}.") from error
        if whole:
            found.add_special_tokens(list(whole))
        normalizer, cutter = self.normalizer(tokenizers), self.cutter(tokenizers)
        if normalizer is not None:
            found.normalizer = normalizer
        found.pre_tokenizer = cutter
        found.decoder = tokenizers.decoders.ByteLevel()
        return found

    def model(self, models: Any, **options: Any) -> Any:
        assert self.merges is not None
        rules = [rule for rule in self.merges if not rule.lstrip().startswith("#version:")]
        pairs = [tuple(rule.split(" ")) for rule in rules]
        for rule, pair in zip(rules, pairs):
            if len(pair) != 2:
                raise ValueError(f"{rule!r} is no rule of two pieces with a space between them")
        options = {"ignore_merges": self.prefers_words, **options}
        return models.BPE(vocab=self.pieces(), merges=pairs, **options)

    def pieces(self) -> dict[str, int]:
        """The vocabulary with what else has an id in text."""
        return self.get_vocabulary()

    def normalizer(self, tokenizers: Any) -> Any:
        normalizers = tokenizers.normalizers
        steps = [normalizers.NFC()] if self.normalizes else []
        if self.add_prefix_space:  # by `ByteLevel` each word that is cut before would get one
            double = normalizers.Replace(tokenizers.Regex(r"\A  "), " ")
            steps += [normalizers.Prepend(" "), double]
        return normalizers.Sequence(steps) if len(steps) > 1 else (*steps, None)[0]

    def cutter(self, tokenizers: Any) -> Any:
        """What cuts text into words."""
        cutters = tokenizers.pre_tokenizers
        if self.split_pattern is None:
            return cutters.ByteLevel(add_prefix_space=False)
        words = cutters.Split(tokenizers.Regex(self.split_pattern), behavior="isolated")
        as_bytes = cutters.ByteLevel(add_prefix_space=False, use_regex=False)
        return cutters.Sequence([words, as_bytes])

    @functools.cached_property
    def plain_library(self) -> Any:
        return self.built(())

    # Tokens

    @property
    def has_vocabulary(self) -> bool:
        return self.vocabulary is not None

    def get_vocabulary(self) -> dict[str, int]:
        self.check_vocabulary()
        assert self.vocabulary is not None
        return self.vocabulary

    def id_to_token(self, id: int) -> str:
        self.check_vocabulary()
        token = self.library.id_to_token(id) if id >= 0 else None
        if token is None:
            raise ValueError(f"The vocabulary has no id {id}.")
        return token

    def token_to_id(self, token: str) -> int:
        self.check_vocabulary()
        id = self.library.token_to_id(token)
        if id is None:
            raise ValueError(f"The vocabulary has no token {token!r}.")
        return id

    # Text

    def encode(self, texts: Sequence[str], special: bool | None) -> list[list[Any]]:
        return self.encoded(list(texts), special)

    def encoded(self, texts: list[Any], special: bool | None, **options: Any) -> list[list[Any]]:
        found = self.plain_library if special is False else self.library
        encodings = found.encode_batch_fast(texts, add_special_tokens=False, **options)
        rows = [encoding.ids for encoding in encodings]
        if self.dtype != "string":
            return rows
        return [[*map(found.id_to_token, row)] for row in rows]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        for row in rows:
            if any(not 0 <= id < 2**32 for id in row):
                raise ValueError(f"No ids of tokens: {min(row)} to {max(row)}.")
        return self.library.decode_batch(list(map(list, rows)), skip_special_tokens=False)

    # Transformers

    @classmethod
    def reads(cls, files: Foreign) -> bool:
        steps = (*files.steps("pre_tokenizer"), *files.steps("decoder"))
        in_bytes = any(step.get("type") == "ByteLevel" for step in steps)
        return (files.kind == "BPE" and in_bytes) or (
            not files.kind and files.source.has("vocab.json") and files.source.has("merges.txt")
        )

    @classmethod
    def arguments_of(cls, files: Foreign) -> dict[str, Any]:
        if files.kind:
            vocabulary = dict(files.model["vocab"])
            rules = files.model["merges"]
            merges = [rule if isinstance(rule, str) else " ".join(rule) for rule in rules]
        else:
            vocabulary = read_vocabulary(read_asset(files.source.file("vocab.json")))
            lines = lines_of(read_asset(files.source.file("merges.txt")))
            merges = [line.rstrip() for line in lines if line and not line.startswith("#version:")]
        vocabulary |= files.added
        steps = files.steps("pre_tokenizer")
        prefix = any(step.get("add_prefix_space") for step in steps)
        prefix |= any(step["type"] == "Prepend" for step in files.steps("normalizer"))
        found = {"vocabulary": vocabulary, "merges": merges, "add_prefix_space": prefix}
        if "unsplittable_tokens" not in cls.unsaved and files.added:
            found["unsplittable_tokens"] = list(files.added)
        return found | cls.special_arguments(files, vocabulary)

    @classmethod
    def special_arguments(cls, files: Foreign, vocabulary: Mapping[str, int]) -> dict[str, Any]:
        """Those of the family's own arguments that a checkpoint of transformers settles."""
        return {}

    def to_library(self) -> Any:
        tokenizers = library("tokenizers", "text")
        return tokenizers.Tokenizer.from_str(self.library.to_str())

    # Files

    def set_assets(self, contents: Sequence[bytes]) -> None:
        vocabulary, merges = contents
        lines = [line.rstrip() for line in lines_of(merges)]
        self.set_vocabulary_and_merges(read_vocabulary(vocabulary), lines)

    def asset_contents(self) -> Sequence[bytes]:
        assert self.merges is not None
        merges = "".join(f"{merge}\n" for merge in self.merges)
        return json.dumps(self.get_vocabulary()).encode(), merges.encode()


def read_vocabulary(content: bytes) -> dict[str, int]:
    """Tokens and their ids of JSON.

    Raises:
        ValueError: it is something else, or has a token twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(token for token, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"The vocabulary has the token {twice!r} twice.")
        return found

    try:
        found = json.loads(content, object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("The vocabulary is no JSON object of tokens and ids.") from error
    return check_vocabulary(found)


def check_vocabulary(vocabulary: Any) -> dict[str, int]:
    """A copy of a vocabulary.

    Raises:
        ValueError: it is something else than tokens and ids, or has an id twice.
    """
    if not isinstance(vocabulary, Mapping):
        raise ValueError("The vocabulary must be a mapping of tokens to ids.")
    for token, id in vocabulary.items():
        whole = isinstance(id, int) and not isinstance(id, bool) and 0 <= id < 2**31
        if not isinstance(token, str) or not whole:
            raise ValueError(f"The vocabulary gives the token {token!r} the id {id!r}.")
    if len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError("The vocabulary has an id twice.")
    return dict(vocabulary)
