"""How diffusers writes its models: each in a folder, and pipelines of several in one around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .. import diffusers
from ..files import CONFIG
from .engine import Dialect, Plan
from .table import Table
from .transformers import TRANSFORMERS

if TYPE_CHECKING:
    from ..sources import PresetSource

INDEX = "model_index.json"
# The document of a folder, if it is not config.json.
SCHEDULER = {"scheduler": "scheduler_config.json"}
# A pipeline's kind is its class, and this where it has a third encoder of text.
THIRD, WITH_THIRD = "text_encoder_3", "+text_encoder_3"


class Diffusers(Dialect):
    """config.json has a `_class_name`; that of a pipeline is made of its folders' by `pipeline`."""

    name = "diffusers"
    packages = (diffusers,)
    further = ("scheduler",)
    files = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

    def recognises(self, config: Mapping[str, Any]) -> bool:
        return "_class_name" in config and not {"registered_name", "model_type"} & config.keys()

    def kind(self, config: Mapping[str, Any]) -> str:
        return str(config["_class_name"]) + (WITH_THIRD if THIRD in config else "")

    def title(self, config: Mapping[str, Any]) -> str:
        return str(config["_class_name"])

    def ignores(self, key: str) -> bool:
        folder, _, name = key.rpartition(".")
        return name.startswith("_") or (
            folder.startswith("text_encoder") and TRANSFORMERS.ignores(key)
        )

    def problems(
        self, config: Mapping[str, Any], unknown: Sequence[str], table: Table
    ) -> list[str]:
        """Every key makes another model."""
        return [f"{key}: not known here" for key in unknown]

    def heading(self, table: Table, kind: str, dtype: torch.dtype) -> dict[str, Any]:
        return {"_class_name": kind.removesuffix(WITH_THIRD)}

    def documents(self, plan: Plan, place: str) -> dict[str, Any]:
        if not plan.table.folders:
            return super().documents(plan, place)
        if place:
            return {SCHEDULER.get(place, CONFIG): plan.config[place]}
        index: dict[str, Any] = {"_class_name": plan.config["_class_name"]}
        for folder in (*plan.table.folders, *self.further):
            config = plan.config[folder]
            cls = config.get("_class_name") or config["architectures"][0]
            library = "diffusers" if "_class_name" in config else "transformers"
            index[folder] = [library, cls]
        absent = {name: parts for name, parts in plan.config.items() if isinstance(parts, list)}
        return {INDEX: {**index, **absent}}


def pipeline(source: PresetSource) -> dict[str, Any] | None:
    """One configuration of a pipeline's, each under its folder; `None` if it is no pipeline."""
    if not source.has(INDEX):
        return None
    index = source.json(INDEX)
    config = {"_class_name": index.get("_class_name")}
    for folder, kind in index.items():
        known = folder in ("transformer", "vae", "scheduler") or folder.startswith("text_encoder")
        if known and isinstance(kind, list) and kind[1:2] != [None]:
            config[folder] = source.json(f"{folder}/{SCHEDULER.get(folder, CONFIG)}")
    return config


DIFFUSERS = Diffusers()
