"""`.keras` archives: a zip of a configuration and weights, of a backbone or a task around one."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

from ..files import MAX_JSON_BYTES, read_json

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
# Keras stores without compression; more than this would be a trap.
MAX_RATIO = 20


def unpack(path: Path, folder: Path) -> None:
    """Write a backbone's configuration and the weights of an archive into a folder.

    Raises:
        ValueError: no such archive, or one that unpacks to more than it should.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in (CONFIG, WEIGHTS):
                _extract(archive, name, folder / name, path)
    except (zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError, EOFError) as error:
        raise ValueError(f"{path} is no readable .keras archive: {error}") from error
    config = _backbone_of(read_json(folder / CONFIG))
    (folder / CONFIG).write_text(json.dumps(config))


def _extract(archive: zipfile.ZipFile, name: str, target: Path, path: Path) -> None:
    info = archive.getinfo(name)
    limit = MAX_JSON_BYTES if name == CONFIG else MAX_RATIO * path.stat().st_size
    if info.file_size > limit:
        raise ValueError(f"{path} declares {info.file_size:,} bytes of {name}; not allowed.")
    # zipfile gives no more bytes than declared, and compares their checksum.
    with archive.open(info) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)


def _backbone_of(config: dict[str, Any]) -> dict[str, Any]:
    """Of a task the configuration of the backbone within."""
    inner = config.get("config")
    backbone = inner.get("backbone") if isinstance(inner, dict) else None
    return backbone if isinstance(backbone, dict) else config
