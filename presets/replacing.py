"""Files of a folder replaced in one step; see `journal`."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .files import ADAPTER, CONFIG
from .journal import JOURNAL, PREFIX, Journal, lock_file, locked, read_journal

# Locked for as long as the save that has made the folder lives.
LOCK = ".lock"
# After which nobody can be writing into a folder without a lock.
FORGOTTEN_SECONDS = 24 * 3600
CONFIGS = (CONFIG, ADAPTER)


@contextlib.contextmanager
def replacing(folder: Path, stale: Sequence[str] = ()) -> Iterator[Path]:
    """A new folder whose files replace those of `folder` in one step, when it is left; those in
    folders within it, too.

    Files there that match `stale` and have no successor are removed. What killed saves have left
    is finished, or removed.

    Raises:
        OSError: `folder` cannot be written; what was in it is whole.
    """
    from safetensors import SafetensorError

    made = not folder.exists()
    try:
        with staging_in(folder) as staging:
            yield staging
            _commit(staging, folder, stale)
    except BaseException as error:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError) and error.errno is not None:
            message = f"{folder} cannot be written: {error.strerror}"
            raise OSError(error.errno, message) from error
        if isinstance(error, SafetensorError):
            raise OSError(f"{folder} cannot be written: {error}") from error
        raise


@contextlib.contextmanager
def staging_in(folder: Path) -> Iterator[Path]:
    """A hidden folder within this one, for the time being."""
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _flush(folder.parent)
    with locked(folder) as held:
        _finish(folder)
        _sweep(folder, held)
        staging = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        descriptor = lock_file(staging / LOCK)
        mode = _mode(staging / LOCK)
        staging.chmod(mode | (mode & 0o444) >> 2)  # for readers that are other users
    try:
        yield staging
    finally:
        if descriptor is not None:
            os.close(descriptor)
        journal = read_journal(folder)
        if journal is None or journal.staging != staging.name:
            shutil.rmtree(staging, ignore_errors=True)


def _sweep(folder: Path, held: bool) -> None:
    """Remove what killed saves have left, as far as locks tell that they are dead."""
    for staging in folder.glob(f"{PREFIX}*"):
        if staging.is_dir() and not staging.is_symlink() and _is_dead(staging, held):
            shutil.rmtree(staging, ignore_errors=True)


def _is_dead(staging: Path, held: bool) -> bool:
    try:
        if os.name == "nt":  # whoever has it open keeps it
            (staging / LOCK).unlink()
            return True
        if held and (staging / LOCK).exists():
            descriptor = lock_file(staging / LOCK)
            if descriptor is not None:
                os.close(descriptor)
            return descriptor is not None
        forgotten = time.time() - staging.stat().st_mtime > FORGOTTEN_SECONDS
        return forgotten or (held and not any(staging.iterdir()))
    except OSError:
        return False


def _commit(staging: Path, folder: Path, stale: Sequence[str]) -> None:
    """Replace the files. When the journal appears, it is done, whatever happens then."""
    mode = _mode(staging / LOCK)
    found = (path for path in staging.rglob("*") if path.is_file() and path.name != LOCK)
    files = sorted(path.relative_to(staging).as_posix() for path in found)
    for name in files:
        (staging / name).chmod(mode)  # safetensors would let nobody but the owner read its files
        _flush(staging / name)
    with locked(folder):
        _finish(folder)
        old = {path.name for pattern in stale for path in folder.glob(pattern)} - {*files}
        for name in (*files, *old):
            if (folder / name).is_dir() and not (folder / name).is_symlink():
                raise IsADirectoryError(errno.EISDIR, f"{name} is a folder")
            _check_parents(folder, name)
        if len(files) == 1 and not old:
            _flush(staging)
            _move(staging, folder, files[0])
            _flush(folder)
            return
        journal = Journal(staging.name, tuple(files), tuple(sorted(old)))
        (staging / JOURNAL).write_text(json.dumps(dataclasses.asdict(journal)))
        (staging / JOURNAL).chmod(mode)
        _flush(staging / JOURNAL)
        _flush(staging)
        os.replace(staging / JOURNAL, folder / JOURNAL)
        _flush(folder)
        _apply(folder, journal)


def _finish(folder: Path) -> None:
    """Do what is left of a save that was killed."""
    journal = read_journal(folder)
    if journal is not None:
        _apply(folder, journal)


def _apply(folder: Path, journal: Journal) -> None:
    """Move the files of a journal, or those that have not been moved.

    Who does not know of journals never finds a configuration, or an index, beside files that it
    does not belong to: these go first and come last.
    """
    staging = folder / journal.staging
    for name in journal.files:
        _check_parents(folder, name)
    waiting = [name for name in journal.files if os.path.lexists(staging / name)]
    for name in sorted({*waiting, *journal.removed}, key=_importance, reverse=True):
        if _importance(name) or name in journal.removed:
            (folder / name).unlink(missing_ok=True)
    for name in sorted(waiting, key=_importance):
        with contextlib.suppress(FileNotFoundError):  # without locks another save may do it, too
            _move(staging, folder, name)
    _flush(folder)
    (folder / JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(staging, ignore_errors=True)


def _check_parents(folder: Path, name: str) -> None:
    """Refuse folders that lead elsewhere, or are none."""
    for parent in list((folder / name).parents)[: name.count("/")]:
        if os.path.lexists(parent) and (parent.is_symlink() or not parent.is_dir()):
            raise NotADirectoryError(errno.ENOTDIR, f"{parent.name} is no folder of its own")


def _move(staging: Path, folder: Path, name: str) -> None:
    new = folder / name
    new.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staging / name, new)
    if new.parent != folder:
        _flush(new.parent)


def _importance(name: str) -> int:
    return 2 if name in CONFIGS else int(name.endswith(".json"))


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot
            raise
    finally:
        os.close(descriptor)
