"""One clear error, whatever is wrong with a file."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

MAX_MESSAGE = 4_000
MAX_NAME = 1_000
# What is said as it is; everything else becomes a ValueError.
CLEAR = (ValueError, TypeError, OSError, NotImplementedError)
OTHERS = (ImportError, torch.OutOfMemoryError, Warning)


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Errors within name what was read, say what is wrong in few words, and are of four kinds.

    Raises:
        ValueError, TypeError, OSError, NotImplementedError: as they were, or for others.
    """
    try:
        yield
    except OTHERS:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, CLEAR) else cause(error)
        # Built-in kinds are made of a message alone.
        kind: type[Exception] = ValueError
        if isinstance(error, CLEAR) and not isinstance(error, UnicodeError):
            kind = next(one for one in type(error).__mro__ if one.__module__ == "builtins")
        clear = shortened(printable(text if where in text else f"{where}: {text}"))
        if clear == text and isinstance(error, kind):
            raise
        new = kind(clear)
        if isinstance(error, OSError) and isinstance(new, OSError):
            new.errno = error.errno
        raise new from error


def cause(error: BaseException) -> str:
    """What an error says, and of what kind it is, in a line."""
    text = str(error).strip().partition("\n")[0]
    return f"{text or 'no reason given'} ({type(error).__name__})"


def printable(text: str) -> str:
    """The text with escapes for what a terminal would obey, or not show; lines stay."""
    return re.sub(r"[^\n]", lambda one: one[0] if one[0].isprintable() else escaped(one[0]), text)


def escaped(text: str) -> str:
    """As in a literal of Python, without the quotes."""
    return text.encode("unicode_escape", "surrogatepass").decode("ascii")


def shortened(text: str) -> str:
    """Not more of it than anybody reads."""
    left = len(text) - MAX_MESSAGE
    return text if left <= 0 else f"{text[:MAX_MESSAGE]} … and {left:,} more characters"


def names_in(names: Iterable[str], where: str | Path) -> None:
    """Look whether the names that a file gives to things can be shown.

    Raises:
        ValueError: one has control characters, or is endless.
    """
    for name in names:
        if not name.isprintable() or len(name) > MAX_NAME:
            raise ValueError(f"{where} has the name '{escaped(name[:80])}'; not allowed.")
