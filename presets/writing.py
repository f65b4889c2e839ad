"""Small files written into a preset, in one step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .replacing import replacing


def write_files(folder: Path, contents: Mapping[str, bytes | dict[str, Any]]) -> None:
    """Write files, JSON of dictionaries; parts of their names are separated by `/`.

    Raises:
        OSError: the folder cannot be written.
    """
    with replacing(folder) as staging:
        write_into(staging, contents)


def write_into(folder: Path, contents: Mapping[str, bytes | dict[str, Any]]) -> list[str]:
    """As `write_files`, into a folder that nobody reads yet. Gives the names."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(json.dumps(content, indent=4))
    return list(contents)
