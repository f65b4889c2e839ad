"""How diffusers writes its models, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import diffusers
from .engine import Dialect
from .table import Table


class Diffusers(Dialect):
    """config.json has a `_class_name`."""

    name = "diffusers"
    packages = (diffusers,)
    files = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

    def recognises(self, config: Mapping[str, Any]) -> bool:
        return "_class_name" in config and not {"registered_name", "model_type"} & config.keys()

    def kind(self, config: Mapping[str, Any]) -> str:
        return str(config["_class_name"])

    def title(self, config: Mapping[str, Any]) -> str:
        return str(config["_class_name"])

    def ignores(self, key: str) -> bool:
        return key.startswith("_")

    def problems(
        self, config: Mapping[str, Any], unknown: Sequence[str], table: Table
    ) -> list[str]:
        """Every key makes another model."""
        return [f"{key}: not known here" for key in unknown]

    def heading(self, table: Table, kind: str, dtype: torch.dtype) -> dict[str, Any]:
        return {"_class_name": kind}


DIFFUSERS = Diffusers()
