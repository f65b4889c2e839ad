"""How timm writes its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import timm
from .dialect import Dialect
from .table import Table

# Of the model's arguments, those of the head and of training.
GENERIC = frozenset(
    f"model_args.{name}"
    for name in ("drop_block_rate", "drop_path_rate", "drop_rate", "global_pool", "num_classes")
)


class Timm(Dialect):
    """config.json has an `architecture`, which is a variant of a table, and in `model_args` what
    differs from it.
    """

    name = "timm"
    packages = (timm,)

    def recognises(self, config: Mapping[str, Any]) -> bool:
        return "architecture" in config and not {"registered_name", "model_type"} & config.keys()

    def kind(self, config: Mapping[str, Any]) -> str:
        """The architecture without the tag of its training, as in `resnet50.a1_in1k`."""
        return str(config["architecture"]).partition(".")[0]

    def title(self, config: Mapping[str, Any]) -> str:
        return str(config["architecture"])

    def ignores(self, key: str) -> bool:
        return key in GENERIC or not key.startswith("model_args.")

    def problems(
        self, config: Mapping[str, Any], unknown: Sequence[str], table: Table
    ) -> list[str]:
        """Every argument makes another model."""
        if not isinstance(config.get("model_args") or {}, Mapping):
            return ["model_args is no object"]
        return [f"{key}: not known here" for key in unknown]

    def heading(self, table: Table, kind: str, dtype: torch.dtype) -> dict[str, Any]:
        return {"architecture": kind, "num_classes": 0, "pretrained_cfg": {"num_classes": 0}}


TIMM = Timm()
