"""The files of a folder as they are at one moment, whatever is saved there meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .journal import HIDDEN, locked, read_journal

ValueType = TypeVar("ValueType")
Identity = tuple[int, int, int, int]  # st_dev, st_ino, st_size, st_mtime_ns
Found = tuple[Path | None, Identity | None]

# How often files are opened side by side with saves; then saves wait.
OPTIMISTIC = 5
TRIES = 20


class Changed(OSError):
    """A folder was saved to while its files were being opened."""


class Snapshot:
    """Resolves names in a folder, and finds out whether all that it gave belongs together.

    Within `consistently` every file given is kept open until then, so that its number on the disk
    is nobody else's: if all names still lead to the same files, they did so at one moment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._watching = False
        self._seen: dict[str, Found] = {}
        self._held = contextlib.ExitStack()

    def find(self, name: str) -> Path | None:
        """Where a file is, parts of its name separated by `/`; None if the folder has none."""
        found = self._resolve(name)
        if self._watching and name not in self._seen:
            self._seen[name] = found = self._keep(name, found)
        elif self._watching and found[1] != self._seen[name][1]:
            raise Changed(f"{self.folder} is being saved to.")
        return found[0]

    def _keep(self, name: str, found: Found) -> Found:
        """Open a file, to have it whatever its name leads to later."""
        while found[0] is not None and os.name != "nt":  # there it could not be replaced
            try:
                descriptor = os.open(found[0], os.O_RDONLY)
            except FileNotFoundError:  # moved meanwhile
                found = self._resolve(name)
                continue
            except OSError:  # whoever reads it says why
                break
            self._held.callback(os.close, descriptor)
            return found[0], _identity(os.fstat(descriptor))
        return found

    def _resolve(self, name: str) -> Found:
        journal = read_journal(self.folder)
        paths = [self.folder / name]
        if journal is not None and name in journal.removed:
            return None, None
        if journal is not None and name in journal.files:
            paths.insert(0, self.folder / journal.staging / name)
        for path in paths:
            try:
                status = os.stat(path)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
            else:
                if stat.S_ISREG(status.st_mode):
                    return path, _identity(status)
        return None, None

    def names(self) -> list[str]:
        """All files, those in subfolders included, but what saves work with."""
        journal = read_journal(self.folder)
        names = set(journal.files) if journal is not None else set()
        for folder, _, files in os.walk(self.folder):
            place = Path(folder).relative_to(self.folder)
            names |= {(place / file).as_posix() for file in files}
        ours = (name for name in names if not name.startswith(HIDDEN))
        return sorted(name for name in ours if self._resolve(name)[0] is not None)

    def sizes(self) -> dict[str, int]:
        """Bytes of all files but hidden ones."""
        plain = (name for name in self.names() if not re.search(r"(^|/)\.", name))
        found = {name: self._resolve(name)[1] for name in plain}
        return {name: identity[2] for name, identity in found.items() if identity is not None}

    def settle(self) -> None:
        """Make sure that all files given belong together. Call it when they are open.

        Raises:
            Changed: they do not.
        """
        if any(self._resolve(name)[1] != one[1] for name, one in self._seen.items()):
            raise Changed(f"{self.folder} is being saved to.")
        self.end()

    def changed(self) -> bool:
        """Whether any file given is elsewhere now, or another one."""
        with contextlib.suppress(OSError, ValueError):
            return any(self._resolve(name) != one for name, one in self._seen.items())
        return False

    def begin(self, alone: bool) -> None:
        """Watch what is given from now on; `alone` makes saves wait until it is settled."""
        self._watching = True
        if alone:
            self._held.enter_context(locked(self.folder, shared=True))

    def end(self) -> None:
        self._watching = False
        self._seen.clear()
        self._held.close()


def consistently(snapshot: Snapshot | None, read: Callable[[], ValueType]) -> ValueType:
    """What `read` gives, called again if the files it has opened do not belong together.

    Args:
        snapshot: through which it finds them; None if they never change. It calls `settle` itself
            where it has opened them and goes on reading.

    Raises:
        OSError: the folder was saved to in every try.
    """
    if snapshot is None:
        return read()
    for attempt in range(TRIES):
        try:
            snapshot.begin(alone=attempt >= OPTIMISTIC)
            found = read()
            snapshot.settle()
        except Exception:
            if not snapshot.changed():
                raise
        else:
            return found
        finally:
            snapshot.end()
    raise OSError(f"{snapshot.folder} was saved to in each of {TRIES} tries to read it.")


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
