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
        for name, content in contents.items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(json.dumps(content, indent=4))
