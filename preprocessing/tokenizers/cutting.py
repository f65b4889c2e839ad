"""How text is normalized and cut into words: steps, in the words of the `tokenizers` library."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from .._libraries import library

Step = Mapping[str, Any]

# What may stand in a file: steps that take their time for the length of a text and no more.
NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "Prepend")
CUTTERS = ("ByteLevel", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit", "UnicodeScripts")
MOST_STEPS = 20
# So many times as long they may make it.
MOST_GROWTH = 1000.0
# A word's own pattern has so many seconds for a text.
SECONDS = 5.0
# What `\w` is to the library.
WORD = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}²³¹¼½¾"


def byte_level(use_regex: bool = True, add_prefix_space: bool = False) -> Step:
    """Bytes as characters; with `use_regex` of the words that GPT-2 cuts."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def split(pattern: str, behavior: str = "Isolated", invert: bool = False) -> Step:
    """Words, or with `invert` what is between them, of a regular expression."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def replace(pattern: str, content: str) -> Step:
    """Another text in place of what a regular expression finds."""
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


# A space before text that begins with none.
PREFIX: Sequence[Step] = ({"type": "Prepend", "prepend": " "}, replace(r"\A  ", " "))


def in_library(normalizer: Sequence[Step], cutters: Sequence[Step]) -> tuple[Any, Any]:
    """Normalizer and pre-tokenizer of the library.

    Raises:
        ValueError: it has no such step, or not with these arguments.
    """
    content: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": _one("normalizers", normalizer),
        "pre_tokenizer": _one("pretokenizers", cutters),
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    try:
        found = library("tokenizers", "text").Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library's own kind is no other
        raise ValueError(f"No steps of the tokenizers library: {error}.") from error
    return found.normalizer, found.pre_tokenizer


def _one(name: str, steps: Sequence[Step]) -> Step | None:
    if len(steps) < 2:
        return steps[0] if steps else None
    return {"type": "Sequence", name: list(steps)}


def complete(normalizer: Sequence[Step], cutters: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """The same steps with all of their arguments, so that they can be compared."""
    parts = in_library(normalizer, cutters)
    normal, cuts = (flat(json.loads(one.__getstate__()) if one else None) for one in parts)
    return normal, [{**one, "trim_offsets": True} if "trim_offsets" in one else one for one in cuts]


def flat(step: Any) -> list[Step]:
    """Steps one after the other of one that may be a sequence of them."""
    waiting, found = [step], []
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, Mapping):
            inner = one.get("normalizers") or one.get("pretokenizers") or one.get("decoders")
            if isinstance(inner, list):
                waiting = [*inner, *waiting]
            elif isinstance(one.get("type"), str) and one["type"] != "Sequence":
                found.append(one)
    return found


def check_steps(normalizer: Sequence[Step], cutters: Sequence[Step]) -> None:
    """Compare steps of a file with those that may stand there.

    Raises:
        ValueError: others, or too many.
    """
    for steps, known in ((normalizer, NORMALIZERS), (cutters, CUTTERS)):
        if len(steps) > MOST_STEPS:
            raise ValueError(f"Of {len(steps)} steps at most {MOST_STEPS} are taken.")
        for step in steps:
            kind, pattern = step.get("type"), step.get("pattern")
            fixed = isinstance(pattern, Mapping) and isinstance(pattern.get("String"), str)
            regular = isinstance(pattern, Mapping) and isinstance(pattern.get("Regex"), str)
            safe = {"Replace": fixed, "Split": fixed or regular}
            if kind not in known and not safe.get(str(kind)):
                raise ValueError(f"The step {dict(step)!r:.300} cannot be taken here.")
    growth = math.prod(max(1.0, _growth(step)) for step in normalizer)
    if growth > MOST_GROWTH:
        raise ValueError(f"The normalizer would make text {growth:,.0f} times as long.")
    in_library(normalizer, cutters)


def _growth(step: Step) -> float:
    """How many times as long a step may make a text of one character."""
    pattern = step.get("pattern")
    old = pattern.get("String") if isinstance(pattern, Mapping) else None
    new = step.get("content", step.get("prepend", ""))
    return len(str(new).encode()) / max(1, len(str(old or "").encode())) + (old is None)


class Cutter:
    """What cuts text as the library does, but patterns of strangers under a limit of time.

    Args:
        normalizer: steps for a text.
        cutters: steps that cut it; the last one, which makes bytes of words, is the library's.
        is_known: whether a pattern takes no longer than its text asks for.

    Raises:
        ValueError: a pattern that is none, or is used in a way that is not known here.
    """

    def __init__(
        self,
        normalizer: Sequence[Step],
        cutters: Sequence[Step],
        is_known: Callable[[str], bool],
    ) -> None:
        self.normalizer = in_library(normalizer, ())[0]
        self.steps: list[tuple[Any, Step | None]] = []
        for step in cutters:
            pattern = pattern_of(step)
            if pattern is None or is_known(pattern):
                self.steps.append((in_library((), [step])[1], None))
                continue
            if step.get("behavior") not in ("Isolated", "Removed"):
                raise ValueError(f"{step['behavior']} of a pattern of its own cannot be done here.")
            regex = library("regex", "text")
            try:
                self.steps.append((regex.compile(as_regex(pattern)), step))
            except regex.error as error:
                raise ValueError(f"{pattern!r:.300} is no regular expression: {error}.") from error

    def words(self, text: str) -> list[str]:
        """The words of a text.

        Raises:
            ValueError: a pattern needs too long.
        """
        words = [text if self.normalizer is None else self.normalizer.normalize_str(text)]
        for tool, step in self.steps:
            if step is None:
                words = [piece for word in words for piece, _ in tool.pre_tokenize_str(word)]
            else:
                words = [piece for word in words for piece in _pieces(tool, word, step)]
        return words


def _pieces(pattern: Any, word: str, step: Step) -> Iterator[str]:
    try:
        spans = [match.span() for match in pattern.finditer(word, timeout=SECONDS)]
    except TimeoutError as error:
        message = f"The pattern {pattern.pattern!r:.300} needs more than {SECONDS} s for a text."
        raise ValueError(message) from error
    edges = [0, *(edge for span in spans for edge in span), len(word)]
    kept = {"Isolated": (0, 1), "Removed": (int(bool(step.get("invert"))),)}[step["behavior"]]
    for i, (begin, end) in enumerate(pairwise(edges)):
        if i % 2 in kept and begin < end:
            yield word[begin:end]


def as_regex(pattern: str) -> str:
    """An expression of the library's as one of `regex`, in which joiners are parts of words."""
    pieces, inside = [], False
    for piece in re.findall(r"\\.|\[\^?\]?|.", pattern, re.DOTALL):
        if piece[0] == "[" or piece == "]":
            inside = piece != "]"
        elif piece == r"\w":
            piece = WORD if inside else f"[{WORD}]"
        elif piece == r"\W" and not inside:
            piece = f"[^{WORD}]"
        pieces.append(piece)
    return "".join(pieces)


def pattern_of(step: Step) -> str | None:
    """The regular expression of a step, if it has one."""
    pattern = step.get("pattern")
    return pattern.get("Regex") if isinstance(pattern, Mapping) else None
