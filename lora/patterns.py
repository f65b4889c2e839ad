"""Regular expressions of a stranger, matched in bounded time.

Python's own engine tries one way after another, and there may be more ways than a life is long:
`(a+)+b`. Here all positions that a part of the expression can reach are known at once, as in an
automaton, and each part is looked at once from each position.
"""

from __future__ import annotations

import importlib
import re
import sys
from typing import Any

MAX_LENGTH = 1000
MAX_STEPS = 100_000
_PARSER = "re._parser" if sys.version_info >= (3, 11) else "sre_parse"
_CLASSES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}


def full_match(pattern: str, text: str) -> bool:
    """As `re.fullmatch(pattern, text) is not None`.

    Raises:
        ValueError: no regular expression, a very long one, or one that looks around, refers to
            its groups, has flags or takes too long.
    """
    if len(pattern) > MAX_LENGTH:
        raise ValueError(f"a regular expression of {len(pattern)} characters is not supported")
    try:
        tree = importlib.import_module(_PARSER).parse(pattern)
        if tree.state.flags & ~re.UNICODE:
            raise ValueError(f"flags in the regular expression {pattern!r} are not supported")
        return len(text) in _Matcher(pattern, text).sequence(tree, 0)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


class _Matcher:
    """Where in `text` the parts of a parsed expression may end."""

    def __init__(self, pattern: str, text: str) -> None:
        self.pattern = pattern
        self.text = text
        self.steps = 0
        self.known: dict[tuple[int, int], frozenset[int]] = {}

    def sequence(self, parts: Any, start: int) -> frozenset[int]:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise ValueError(f"the regular expression {self.pattern!r} takes too long")
        key = id(parts), start
        if key not in self.known:
            ends = frozenset((start,))
            for kind, argument in parts:
                ends = frozenset(e for p in ends for e in self.part(str(kind), argument, p))
            self.known[key] = ends
        return self.known[key]

    def part(self, kind: str, argument: Any, start: int) -> frozenset[int]:
        if kind == "BRANCH":
            return frozenset(e for branch in argument[1] for e in self.sequence(branch, start))
        if kind == "SUBPATTERN" and not (argument[1] or argument[2]):
            return self.sequence(argument[3], start)
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, repeated = argument
            return self.repeat(int(least), int(most), repeated, start)
        if kind == "AT":
            at_start = str(argument) in ("AT_BEGINNING", "AT_BEGINNING_STRING")
            at_end = str(argument) in ("AT_END", "AT_END_STRING")
            if at_start or at_end:
                return frozenset((start,) if start == (0 if at_start else len(self.text)) else ())
        elif kind in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            found = start < len(self.text) and self.character(kind, argument, self.text[start])
            return frozenset((start + 1,) if found else ())
        raise ValueError(f"{kind} in the regular expression {self.pattern!r} is not supported")

    def repeat(self, least: int, most: int, parts: Any, start: int) -> frozenset[int]:
        reached, ends = frozenset((start,)), frozenset[int]()
        for count in range(most + 1):
            after = frozenset(e for p in reached for e in self.sequence(parts, p))
            if after == reached:  # nothing, or empty matches only: so it would go on
                return ends | reached
            if count >= least:
                if reached <= ends:
                    break
                ends |= reached
            reached = after
        return ends

    def character(self, kind: str, argument: Any, character: str) -> bool:
        if kind == "ANY":
            return character != "\n"
        if kind == "LITERAL":
            return ord(character) == int(argument)
        if kind == "NOT_LITERAL":
            return ord(character) != int(argument)
        found = negated = False
        for kind, item in argument:
            name = str(kind)
            if name == "NEGATE":
                negated = True
            elif name == "LITERAL":
                found |= ord(character) == item
            elif name == "RANGE":
                found |= item[0] <= ord(character) <= item[1]
            else:
                found |= re.match(_CLASSES[str(item)], character) is not None
        return found != negated
