"""How OpenCLIP writes its models of images and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import open_clip
from ..sources import PresetSource
from .dialect import Dialect
from .table import Table

OPEN_CLIP_CONFIG = "open_clip_config.json"


class OpenCLIP(Dialect):
    """Its document has a `model_cfg`, always of one class. None is written."""

    name = "OpenCLIP"
    document = OPEN_CLIP_CONFIG
    packages = (open_clip,)
    files = (
        *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
        "open_clip_pytorch_model.bin",
    )

    def recognises(self, config: Mapping[str, Any]) -> bool:
        return isinstance(config.get("model_cfg"), Mapping)

    def kind(self, config: Mapping[str, Any]) -> str:
        return "clip"

    def title(self, config: Mapping[str, Any]) -> str:
        return "CLIP"

    def ignores(self, key: str) -> bool:
        return not key.startswith("model_cfg.")

    def problems(
        self, config: Mapping[str, Any], unknown: Sequence[str], table: Table
    ) -> list[str]:
        """Every key makes another model."""
        return [f"{key}: not known here" for key in unknown]

    def heading(self, table: Table, kind: str, dtype: torch.dtype) -> dict[str, Any]:
        return {}


OPEN_CLIP = OpenCLIP()


def open_clip_config(source: PresetSource) -> dict[str, Any] | None:
    """What OpenCLIP says of a preset's model; `None` where it says nothing.

    Raises:
        ValueError: it is no configuration of a model.
    """
    if not source.has(OPEN_CLIP_CONFIG):
        return None
    config = source.json(OPEN_CLIP_CONFIG)
    if not OPEN_CLIP.recognises(config):
        raise ValueError(f"{OPEN_CLIP_CONFIG} of {source.handle} has no model_cfg.")
    return config
