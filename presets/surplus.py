"""What a weight file holds beside the model's weights."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from .refusals import MAX_MESSAGE, shortened

# Names in a message; a file may hold any number.
SHOWN = 20
Ignore = bool | Sequence[str]


def superfluous(
    found: Mapping[str, str], ignore: Ignore, where: str, foreign: Collection[str] = ()
) -> tuple[list[str], str]:
    """A line for each weight that should not be there, and how to leave them out.

    Those that are left out are named in a warning.

    Args:
        found: what is to be said of each after its name.
        ignore: patterns of names to leave out (`v_head.*`), or True for all.
        foreign: names that are left out in any case.

    Raises:
        TypeError: `ignore` is a single string.
    """
    if isinstance(ignore, str):
        raise TypeError(f"ignore must be a list of patterns, not the string {ignore!r}.")
    patterns = ("*",) if ignore is True else tuple(ignore or ())
    left = dict.fromkeys(
        name
        for name in found
        if name in foreign or any(fnmatchcase(name, pattern) for pattern in patterns)
    )
    if left:
        warnings.warn(
            f"{where} holds weights that are no part of the model and are left out: "
            f"{_listed(list(left))}.",
            stacklevel=2,
        )
    surplus = [name for name in found if name not in left]
    problems = [f"superfluous: {name}{found[name]}" for name in surplus]
    known = list(dict.fromkeys(re.sub(r"\d+", "*", name) for name in surplus))
    hint = f"; ignore={shortened(repr(known[:SHOWN]))} leaves out what is superfluous"
    return problems, hint if surplus else ""


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return shortened(", ".join(names[:SHOWN])) + (f" and {rest} more" if rest > 0 else "")


def lines_of(problems: Sequence[str]) -> str:
    """A line for each, as far as a message should go."""
    text = ""
    for i, problem in enumerate(problems):
        line = f"\n  {shortened(problem)}"
        if i and len(text) + len(line) > MAX_MESSAGE:
            return f"{text}\n  and {len(problems) - i:,} more"
        text += line
    return text
