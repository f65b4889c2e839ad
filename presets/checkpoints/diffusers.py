"""How diffusers writes its models: each in a folder, and pipelines of several in one around."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...backbones._model import Model
from .. import diffusers
from ..files import CONFIG
from ..sources import PresetSource
from .bindings import Plan
from .dialect import Dialect, find_table
from .files import Within
from .table import Table
from .transformers import TRANSFORMERS

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
        for part in (*plan.table.folders, *self.further):
            config = plan.config[part]
            cls = config.get("_class_name") or config["architectures"][0]
            library = "diffusers" if "_class_name" in config else "transformers"
            index[part] = [library, cls]
        absent = {part: entry for part, entry in plan.config.items() if isinstance(entry, list)}
        return {INDEX: {**index, **absent}}


def in_pipeline(
    source: PresetSource, cls: type[Model]
) -> tuple[PresetSource, dict[str, Any]] | None:
    """One configuration of a pipeline's, each under its folder; or a folder and its configuration,
    if only a part is a `cls`. `None` if it is no pipeline.

    Of pipelines that have no table as a whole the transformer is read.

    Raises:
        ValueError: several parts are.
    """
    if not source.has(INDEX):
        return None
    index = source.json(INDEX)
    config: dict[str, Any] = {"_class_name": index.get("_class_name")}
    for folder, kind in index.items():
        known = folder in ("transformer", "vae", "scheduler") or folder.startswith("text_encoder")
        if known and isinstance(kind, list) and kind[1:2] != [None]:
            config[folder] = source.json(f"{folder}/{SCHEDULER.get(folder, CONFIG)}")
    whole, parts = _class_of(config), [folder for folder in config if folder in index]
    main = whole or _class_of(config.get("transformer", {}))
    if main is None or (whole and issubclass(whole, cls)):
        return source, config
    fitting = ["transformer"] if issubclass(main, cls) else []
    fitting = fitting or [one for one in parts if issubclass(_class_of(config[one]) or Model, cls)]
    if len(fitting) > 1:
        raise ValueError(
            f"{source.handle} has several models of class {cls.__name__}: give the folder of one "
            f"of {', '.join(fitting)}."
        )
    for folder in fitting:
        return Within(source, folder), config[folder]
    return source, config


def _class_of(config: Any) -> type[Model] | None:
    """The class of a model, or of a pipeline, that is read; `None` of another one."""
    if not isinstance(config, Mapping):
        return None
    for dialect in (DIFFUSERS, TRANSFORMERS):
        if dialect.recognises(config):
            with contextlib.suppress(ValueError):
                return find_table(dialect, dialect.kind(config), "").backbone
    return None


DIFFUSERS = Diffusers()
