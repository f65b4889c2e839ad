"""Small files of a preset, none of them trusted."""

from __future__ import annotations

import json
import re
import reprlib
from pathlib import Path
from typing import Any

from .refusals import names_in, shortened

CONFIG = "config.json"
ADAPTER = "adapter_config.json"  # of PEFT
WEIGHTS = "model.weights.h5"
SHARD_INDEX = "model.weights.json"
SAFETENSORS = "model.safetensors"
MAX_JSON_BYTES = 1024**2
MAX_INDEX_BYTES = 16 * 1024**2
INDEXES = (".index.json", ".weights.json")  # of shards
MAX_DEPTH = 64
POINTER = b"version https://git-lfs.github.com/spec/"


def safe_name(name: Any) -> str:
    """A plain file name, as it stands in an index.

    Raises:
        ValueError: it could lead out of the folder.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[^/\\:\0]+", name) or name in (".", ".."):
        shown = reprlib.repr(name)
        raise ValueError(f"{shown} is no plain file name; paths are not allowed here.")
    return name


def relative_name(name: Any, where: str) -> str:
    """A file's name in the listing of a hub, its folders separated by `/`.

    Raises:
        ValueError: it could lead out of the folder, or cannot be shown.
    """
    plain = isinstance(name, str) and name.isprintable() and len(name) < 1024
    try:
        for part in name.split("/") if plain else (None,):
            safe_name(part)
    except ValueError as error:
        raise ValueError(
            f"{where} lists the file {reprlib.repr(name)}, which is no plain relative name."
        ) from error
    return str(name)


def refuse_pointer(path: Path) -> None:
    """Look whether a file is but the pointer that a clone without git-lfs leaves in its place.

    Raises:
        ValueError: it is.
    """
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ValueError(
                f"{path} is a pointer of Git LFS, not the file itself. `git lfs install` and then "
                "`git lfs pull` in the repository fetch it."
            )


def read_json(path: Path, limit: int | None = None) -> dict[str, Any]:
    """A JSON object.

    Args:
        limit: of its bytes, where it is not the usual one.

    Raises:
        ValueError: too large, not JSON, no object, nested too deeply, or with keys that are not
            printable.
    """
    if limit is None:
        limit = MAX_INDEX_BYTES if path.name.endswith(INDEXES) else MAX_JSON_BYTES
    if path.stat().st_size > limit:
        raise ValueError(f"{path} is larger than {limit:,} bytes.")
    refuse_pointer(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no valid JSON: {shortened(str(error))}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(value).__name__}.")
    _check(value, path)
    return value


def _check(value: dict[str, Any], path: Path) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        for one in level:
            if isinstance(one, dict):
                names_in(one, path)
        inner = [list(one.values()) if isinstance(one, dict) else one for one in level]
        level = [one for ones in inner for one in ones if isinstance(one, (dict, list))]
        if not level:
            return
    raise ValueError(f"{path} is nested more than {MAX_DEPTH} levels deep.")
