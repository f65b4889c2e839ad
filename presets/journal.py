"""How a save of several files is one step.

All new files are written into a hidden folder within the target. Then a journal of them appears in
the target, and from that moment on they are the preset, wherever they are: what the journal lists
is looked for in the hidden folder first, what it removes is there no more. The files are moved, and
the journal goes. Whatever ends before that is finished by the next save.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from .files import read_json, safe_name

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

JOURNAL = ".saving.json"
PREFIX = ".saving-"
HIDDEN = ".saving"  # all of ours
# A lock is held for as long as renaming some files takes.
PATIENCE = 60.0


@dataclass(frozen=True)
class Journal:
    """What a save has changed in a folder.

    Attributes:
        staging: the folder that its files were written into.
        files: their names, parts of which are separated by `/`.
        removed: names of files that are part of the preset no more.
    """

    staging: str
    files: tuple[str, ...]
    removed: tuple[str, ...]


def read_journal(folder: Path) -> Journal | None:
    """The journal of a save that has not moved all of its files, if there is one.

    Raises:
        ValueError: it is none that a save has written.
    """
    path = folder / JOURNAL
    if not os.path.lexists(path):
        return None
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    staging, files, removed = (content.get(key) for key in ("staging", "files", "removed"))
    if not (
        isinstance(staging, str)
        and re.fullmatch(rf"{re.escape(PREFIX)}\w+", staging)
        and not (folder / staging).is_symlink()
        and _are_names(files, nested=True)
        and _are_names(removed)
    ):
        raise ValueError(f"{path} is no journal that a save has written; it may be removed.")
    return Journal(staging, tuple(files), tuple(removed))


def _are_names(value: Any, nested: bool = False) -> TypeGuard[list[str]]:
    """Whether it is a list of file names, of files in folders within, too, if they may be."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return False
    try:
        parts = [part for name in value for part in (name.split("/") if nested else [name])]
        return not any(safe_name(part).startswith(HIDDEN) for part in parts)
    except ValueError:
        return False


@contextlib.contextmanager
def locked(folder: Path, shared: bool = False) -> Iterator[bool]:
    """Hold a folder's lock: commits exclude each other and, as the last resort, readers.

    Returns:
        Whether it is held; not every system and file system has locks.

    Raises:
        OSError: somebody else has held it for a minute.
    """
    if fcntl is None:
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    held: bool | None = False
    try:
        end = time.monotonic() + PATIENCE
        while (held := _lock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)) is None:
            if time.monotonic() > end:
                raise OSError(errno.EBUSY, "another process is saving into it", str(folder))
            time.sleep(0.002)
        yield held
    finally:
        if held:  # of copies that a fork has made, too
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool | None:
    """Whether a lock is held now; None if somebody else has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:
        return False
    return True


def lock_file(path: Path) -> int | None:
    """Open and lock a file, for as long as it stays open; None if somebody else has it locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if fcntl is not None and _lock(descriptor, fcntl.LOCK_EX) is None:
        os.close(descriptor)
        return None
    return descriptor
