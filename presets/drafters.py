"""From a preset to what drafts tokens: a backbone, and the weights beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..backbones._drafter import Drafter
from ..backbones._registry import find_class, public_classes
from ..backbones.layers.dtypes import DTypeLike
from .building import assign
from .checkpoints import TRANSFORMERS, configuration, dialect_of
from .checkpoints.files import Stored, open_weights
from .companions import GENERATION, TASK
from .keras.h5 import Dataset, WeightFile
from .refusals import naming
from .sources import open_preset

if TYPE_CHECKING:
    from .sources import PresetSource

DrafterType = TypeVar("DrafterType", bound=Drafter)
TASK_WEIGHTS = "task.weights.h5"


def find_drafter(source: PresetSource) -> type[Drafter] | None:
    """The class of a preset that drafts for another model; `None` of any other preset."""
    config = configuration(source)[1]
    if dialect_of(config) is TRANSFORMERS:
        names = config.get("architectures") or [None]
        classes = public_classes(Drafter).values()
        return next((cls for cls in classes if cls.architecture == names[0]), None)
    name = source.json(TASK).get("class_name") if source.has(TASK) else None
    return find_class(name, Drafter) if isinstance(name, str) else None


def load_drafter(
    cls: type[DrafterType],
    preset: str | os.PathLike[str],
    dtype: DTypeLike,
    device: str | torch.device | None,
) -> DrafterType:
    """See `Drafter.from_preset`."""
    backbone: Any = cls.backbone_class.from_preset(preset, dtype=dtype, device=device)
    with naming(str(preset)):
        source = open_preset(preset)
        return source.consistently(lambda: _load(cls, source, backbone))


def _load(cls: type[DrafterType], source: PresetSource, backbone: Any) -> DrafterType:
    source, config = configuration(source)
    is_keras = dialect_of(config) is not TRANSFORMERS
    number = None
    if is_keras:
        task = source.json(TASK)
        if task.get("class_name") != cls.__name__ or not isinstance(task.get("config"), dict):
            raise ValueError(f"{source.handle} is no {cls.__name__}: its {TASK} says otherwise.")
        config = task["config"]
        number = config.get("num_speculative_tokens")
    elif source.has(GENERATION):
        number = source.json(GENERATION).get("num_assistant_tokens")
    missing = [name for name in cls.settings if name not in config]
    if missing:
        raise ValueError(f"{source.handle} is no {cls.__name__}: it has no {', '.join(missing)}.")
    settings: dict[str, Any] = {name: config[name] for name in cls.settings}
    if number is not None:
        settings["num_speculative_tokens"] = number
    with torch.device("meta"):
        model = cls(backbone, **settings)
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("backbone.")}
    names = {name: cls.weights[name][0 if is_keras else 1] for name in own}
    with ExitStack() as stack:
        stored = _open_keras(source, names, stack) if is_keras else _open_foreign(source, stack)
        source.settle()
        for name, tensor in own.items():
            _fill(model, name, tensor, stored.get(names[name]), names[name], is_keras)
    return model.eval()


def _fill(
    model: Drafter,
    name: str,
    blank: torch.Tensor,
    stored: Dataset | Stored | None,
    theirs: str,
    is_keras: bool,
) -> None:
    """Read a weight into its place; Keras's matrices have their inputs first."""
    if stored is None:
        raise ValueError(f"There is no {theirs}.")
    turned = is_keras and blank.ndim == 2
    shape = blank.shape[::-1] if turned else blank.shape
    if tuple(stored.shape) != tuple(shape):
        raise ValueError(f"{theirs} must be of shape {tuple(shape)}, not {tuple(stored.shape)}.")
    value = stored.read()
    if not blank.is_floating_point() and not 0 <= value.min() <= value.max() < len(value):
        raise ValueError(f"{theirs} must have numbers from 0 to {len(value) - 1}.")
    owner, _, leaf = name.rpartition(".")
    device = model.backbone.device
    assign(model.get_submodule(owner), leaf, value.T if turned else value, device, False)


def _open_keras(
    source: PresetSource, names: Mapping[str, str], stack: ExitStack
) -> Mapping[str, Dataset]:
    file = stack.enter_context(WeightFile(source.file(TASK_WEIGHTS)))
    file.unpack(file.datasets[path] for path in names.values() if path in file.datasets)
    return file.datasets


def _open_foreign(source: PresetSource, stack: ExitStack) -> Mapping[str, Stored]:
    files = TRANSFORMERS.weights(source)
    return {tensor.name: tensor for path in files for tensor in open_weights(path, stack)}
