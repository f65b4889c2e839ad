"""Small files of a preset, none of them trusted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

CONFIG = "config.json"
ADAPTER = "adapter_config.json"  # of PEFT
WEIGHTS = "model.weights.h5"
SHARD_INDEX = "model.weights.json"
SAFETENSORS = "model.safetensors"
MAX_JSON_BYTES = 64 * 1024**2
POINTER = b"version https://git-lfs.github.com/spec/"


def safe_name(name: Any) -> str:
    """A plain file name, as it stands in an index.

    Raises:
        ValueError: it could lead out of the folder.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[^/\\:\0]+", name) or name in (".", ".."):
        raise ValueError(f"{name!r} is no plain file name; paths are not allowed here.")
    return name


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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: too large, not JSON, or no object.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path} is larger than {MAX_JSON_BYTES:,} bytes.")
    refuse_pointer(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(value).__name__}.")
    return value
