"""Whether a preset's weights are those of its model, without reading them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backbones._model import Model
from .loading import CONFIG, check, construct, keras_config, open_safetensors, weight_file
from .sources import open_preset

if TYPE_CHECKING:
    from .sources import PresetSource


@dataclass
class Verified:
    """A preset whose weights are exactly its model's.

    Attributes:
        model: on the meta device.
        files: how many tensors each holds.
        drawn: weights that the files may lack, and lack.
        ignored: tensors that are known to be no part of a backbone.
    """

    model: Model
    files: Counter[Path]
    drawn: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def verify_preset(preset: str | os.PathLike[str]) -> Verified:
    """Compare the weight files' headers with the model that the configuration describes.

    Data are read of tied weights only, where a checkpoint has copies that must be equal.

    Raises:
        ValueError: broken preset, or weights that are not exactly the model's: all differences.
        OSError: files that are missing or cannot be fetched.
    """
    source = open_preset(preset)
    config = source.json(CONFIG)
    if "model_type" in config and "registered_name" not in config:
        return _verify_transformers(source, config)
    found, arguments = keras_config(config, source.handle)
    model = construct(found, arguments, "meta")
    return Verified(model, check(model, weight_file(source)))


def _verify_transformers(source: PresetSource, config: Mapping[str, Any]) -> Verified:
    from .transformers import engine

    table = engine.find_table(str(config["model_type"]), source.handle)
    model = construct(table.backbone, engine.to_ours(table, config, source.handle), "meta")
    files: Counter[Path] = Counter()
    with ExitStack() as stack:
        for path in engine.weight_files(source):
            files[path] = len(stack.enter_context(open_safetensors(path)).keys())
        stored, problems = engine.stored_weights(table, source, stack)
        arguments = engine.arguments_of(model)
        bindings = engine.bind(table.for_names(stored), arguments, model.state_dict())
        absent = engine.account(table, bindings, stored, problems, source.handle)
    used = {name for binding in bindings for name in binding.theirs}
    return Verified(
        model,
        files,
        drawn=[name for binding in absent for name in binding.ours],
        ignored=[name for name in stored if name not in used],
    )
