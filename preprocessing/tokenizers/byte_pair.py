"""Byte-pair encoding of bytes (Radford et al., 2019), each family with its own way to cut text."""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from .._layer import public_classes
from .._libraries import library
from . import cutting
from .base import Tokenizer, lines_of, read_asset
from .cutting import PREFIX, Step, byte_level, split
from .foreign import Foreign, added_tokens, check_options

# A whole run, which is looked at once.
SPACE_BEFORE = r"(?:(?<!\s)\s++)?"


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
        normalizer: what is done to text first, steps in the words of the `tokenizers` library, of
            a model that was trained with others than its family.
        pre_tokenizer: likewise what cuts text into words. A regular expression that no family has
            gets five seconds for a text.
        ignore_merges: likewise whether a word in the vocabulary is a token, whatever the rules say.
        token_options: likewise unsplittable tokens that take in the spaces before or behind them,
            or that are words alone: `lstrip`, `rstrip`, `single_word`.

    Attributes:
        split_pattern: what words are, a regular expression; GPT-2's if it is None.
        known_patterns: more of those that cut any text at once.
        normalizes: whether text is composed first (NFC).
        prefers_words: whether words in the vocabulary are tokens, whatever the rules say.
        usual_options: `token_options` of the family's own tokens.
        is_rebuilt: whether transformers cuts text as it knows the family to, no file asked.
    """

    keras_module = "keras_hub.src.tokenizers.byte_pair_tokenizer"
    assets = ("vocabulary.json", "merges.txt")
    unsaved: ClassVar[Sequence[str]] = ("vocabulary", "merges")
    own: ClassVar[Sequence[str]] = (
        *("normalizer", "pre_tokenizer", "ignore_merges"),
        "token_options",
    )
    split_pattern: str | None = None
    known_patterns: ClassVar[Sequence[str]] = ()
    usual_options: ClassVar[Mapping[str, Sequence[str]]] = {}
    is_rebuilt: ClassVar[bool] = False
    normalizes: ClassVar[bool] = False
    prefers_words: ClassVar[bool] = False

    def __init__(
        self,
        vocabulary: str | os.PathLike[str] | Mapping[str, int] | None = None,
        merges: str | os.PathLike[str] | Iterable[str] | None = None,
        sequence_length: int | None = None,
        add_prefix_space: bool = False,
        unsplittable_tokens: Iterable[str] | None = None,
        *,
        normalizer: Sequence[Mapping[str, Any]] | None = None,
        pre_tokenizer: Sequence[Mapping[str, Any]] | None = None,
        ignore_merges: bool | None = None,
        token_options: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sequence_length = sequence_length
        self.add_prefix_space = add_prefix_space
        self.normalizer, self.pre_tokenizer = normalizer, pre_tokenizer
        self.ignore_merges = ignore_merges
        self.token_options = token_options
        check_options(token_options)
        cutting.check_steps(normalizer or (), pre_tokenizer or ())
        if unsplittable_tokens is None:
            unsplittable_tokens = self.special_tokens
        if isinstance(unsplittable_tokens, str):
            raise TypeError(
                f"unsplittable_tokens must be a list, not {unsplittable_tokens!r:.300}."
            )
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
        for name in ("plain_library", "cutter"):
            self.__dict__.pop(name, None)
        self.library = self.built(self.unsplittable_tokens)
        self.update_special_tokens()

    def built(self, whole: Sequence[str], **options: Any) -> Any:
        """The tokenizer of the library, for which these tokens are whole in text."""
        tokenizers = library("tokenizers", "text")
        try:
            found = tokenizers.Tokenizer(self.model(tokenizers.models, **options))
        except Exception as error:  # the library's own kind is no other
            raise ValueError(f"Vocabulary and merges do not fit: {error}.") from error
        found.add_special_tokens(
            added_tokens(whole, {**self.usual_options, **(self.token_options or {})})
        )
        steps, cuts = self.steps()
        if self.cutter is not None:
            steps, cuts = [], cuts[-1:]
        found.normalizer, found.pre_tokenizer = cutting.in_library(steps, cuts)
        found.decoder = tokenizers.decoders.ByteLevel()
        return found

    def model(self, models: Any, **options: Any) -> Any:
        assert self.merges is not None
        rules = [rule for rule in self.merges if not rule.lstrip().startswith("#version:")]
        pairs = [tuple(rule.split(" ")) for rule in rules]
        for rule, pair in zip(rules, pairs):
            if len(pair) != 2:
                raise ValueError(f"{rule!r} is no rule of two pieces with a space between them")
        ignores = self.prefers_words if self.ignore_merges is None else self.ignore_merges
        options = {"vocab": self.pieces(), "ignore_merges": ignores, **options}
        return models.BPE(merges=pairs, **options)

    def pieces(self) -> dict[str, int]:
        """The vocabulary with what else has an id in text."""
        return self.get_vocabulary()

    def steps(self) -> tuple[list[Step], list[Step]]:
        """What is done to text, and what cuts it into words."""
        steps = self.own_normalizer() if self.normalizer is None else self.normalizer
        cuts = self.own_cutters() if self.pre_tokenizer is None else self.pre_tokenizer
        if not self.add_prefix_space or any(step.get("add_prefix_space") for step in cuts):
            return list(steps), list(cuts)
        if cuts[0]["type"] == "ByteLevel":
            return list(steps), [{**cuts[0], "add_prefix_space": True}, *cuts[1:]]
        return [*steps, *PREFIX], list(cuts)  # by `ByteLevel` each word that is cut would get one

    def own_normalizer(self) -> Sequence[Step]:
        """What the family does to text first."""
        return [{"type": "NFC"}] if self.normalizes else []

    def own_cutters(self) -> Sequence[Step]:
        """What cuts text into words in the family."""
        if self.split_pattern is None:
            return [byte_level()]
        return [split(self.split_pattern), byte_level(use_regex=False)]

    @functools.cached_property
    def cutter(self) -> cutting.Cutter | None:
        return self.made_cutter()

    def made_cutter(self) -> cutting.Cutter | None:
        """What cuts text first, if that is no work for the library.

        Raises:
            ValueError: nothing can cut it so.
        """
        steps, cuts = self.steps()
        patterns = filter(None, map(cutting.pattern_of, cuts))
        if all(map(self.is_known, patterns)):
            return None
        if cuts[-1]["type"] != "ByteLevel":
            raise ValueError("pre_tokenizer must end with the step ByteLevel.")
        return cutting.Cutter(steps, cuts[:-1], self.is_known)

    @classmethod
    def is_known(cls, pattern: str) -> bool:
        """Whether a family has that regular expression."""
        return pattern in (cls.split_pattern, *cls.known_patterns) or pattern in known_patterns()

    @functools.cached_property
    def plain_library(self) -> Any:
        """As `library`, but what looks like a special token in text is none."""
        if not (self.prefers_words or self.ignore_merges):
            return self.built(())
        assert self.merges is not None
        made = {rule.replace(" ", "") for rule in self.merges}
        hidden = {token for token in self.unsplittable_tokens if len(token) > 1} - made
        pieces = {token: id for token, id in self.pieces().items() if token not in hidden}
        return self.built((), vocab=pieces)

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
        token = self.library.id_to_token(id) if 0 <= id < 2**32 else None
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
        if self.cutter is None:
            return self.encoded(list(texts), special)
        whole = () if special is False else self.unsplittable_tokens
        words = [[*self.words(text, whole)] for text in texts]
        return self.encoded(words, special, is_pretokenized=True)

    def words(self, text: str, whole: Sequence[str]) -> Iterator[str]:
        """A text cut in words, special tokens whole."""
        regex = library("regex", "text")
        assert self.cutter is not None
        known = {**self.usual_options, **(self.token_options or {})}
        special = "|".join(
            SPACE_BEFORE * ("lstrip" in known.get(one, ()))
            + regex.escape(one)
            + r"\s*+" * ("rstrip" in known.get(one, ()))
            for one in sorted(whole, key=len, reverse=True)
        )
        for i, part in enumerate(regex.split(f"({special})", text) if whole else [text]):
            token = part.strip() if part.strip() in known else part
            yield from [token] if i % 2 else self.cutter.words(part)

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
        found: dict[str, Any] = {"vocabulary": vocabulary, "merges": merges}
        if "unsplittable_tokens" not in cls.unsaved and files.added:
            found["unsplittable_tokens"] = list(files.added)
        found |= cls.special_arguments(files, vocabulary)
        found |= {"token_options": files.token_options} if files.token_options else {}
        return found | cls.cutting_arguments(files, found)

    @classmethod
    def cutting_arguments(cls, files: Foreign, others: Mapping[str, Any]) -> dict[str, Any]:
        """Those that say how a checkpoint of transformers has text cut, where its family has not.

        A warning says what cannot be done here.
        """
        prefix = files.config.get("add_prefix_space") is True
        if not files.kind:
            return {"add_prefix_space": prefix}
        steps, cuts = files.steps("normalizer"), files.steps("pre_tokenizer")
        if steps[-2:] == [*PREFIX]:
            steps, prefix = steps[:-2], True
        if cuts and cuts[0]["type"] == "ByteLevel":
            given = bool(cuts[0].get("add_prefix_space", True))
            cuts, prefix = [{**cuts[0], "add_prefix_space": False}, *cuts[1:]], prefix or given
        like = cls(**{key: value for key, value in others.items() if key not in cls.unsaved})
        own = cutting.complete(like.own_normalizer(), like.own_cutters())
        found: dict[str, Any] = {"add_prefix_space": prefix}
        try:
            theirs = cutting.complete(steps, cuts)
            found |= {name: b for name, a, b in zip(cls.own, own, theirs) if a != b}
            ignores = bool(files.model.get("ignore_merges"))
            found |= {} if ignores == cls.prefers_words else {"ignore_merges": ignores}
            cls(**{**others, **found, "vocabulary": None, "merges": None}).made_cutter()
        except ValueError as error:
            files.warn(f"{error} Text is cut as {cls.__name__} does it.")
            return {"add_prefix_space": prefix}
        return found

    @classmethod
    def special_arguments(cls, files: Foreign, vocabulary: Mapping[str, int]) -> dict[str, Any]:
        """Those of the family's own arguments that a checkpoint of transformers settles."""
        return {}

    def marks(self) -> dict[str, Any]:
        """A byte is no special token, as it would be in text; BLIP-2's texts end with such."""
        found = {k: v for k, v in super().marks().items() if v not in byte_characters()}
        return found | ({"add_prefix_space": True} if self.add_prefix_space else {})

    def to_library(self) -> Any:
        own = any(getattr(self, name) is not None for name in self.own if name != "token_options")
        if self.is_rebuilt and (own or self.add_prefix_space):
            warnings.warn(
                "AutoTokenizer cuts text as the family does, whatever tokenizer.json says; "
                "PreTrainedTokenizerFast reads what this tokenizer does.",
                stacklevel=2,
            )
        tokenizers = library("tokenizers", "text")
        found = tokenizers.Tokenizer.from_str(self.library.to_str())
        found.normalizer, found.pre_tokenizer = cutting.in_library(*self.steps())
        return found

    # Files

    def set_assets(self, contents: Sequence[bytes]) -> None:
        vocabulary, merges = contents
        lines = [line.rstrip() for line in lines_of(merges)]
        self.set_vocabulary_and_merges(read_vocabulary(vocabulary), lines)

    def asset_contents(self) -> Sequence[bytes]:
        assert self.merges is not None
        merges = "".join(f"{merge}\n" for merge in self.merges)
        return json.dumps(self.get_vocabulary()).encode(), merges.encode()


@functools.cache
def known_patterns() -> frozenset[str]:
    """The regular expressions of all families."""
    classes = [one for one in public_classes().values() if issubclass(one, BytePairTokenizer)]
    own = {one.split_pattern for one in classes if isinstance(one.split_pattern, str)}
    return frozenset(own.union(*(one.known_patterns for one in classes)))


@functools.cache
def byte_characters() -> list[str]:
    """What stands for each byte in tokens (Radford et al., 2019): itself if it can be seen."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in seen else next(others)) for byte in range(256)]


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
