"""From a model to a preset."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..backbones._model import Model
from ..backbones.layers.quantized import Quantized
from . import builtin
from .files import CONFIG, SAFETENSORS, SHARD_INDEX, WEIGHTS
from .gathering import Gathering
from .keras.h5 import WeightWriter
from .keras.tree import Layer, keras_tree
from .progress import track
from .replacing import replacing
from .safetensors import write_safetensors
from .weights import Weight, blank_of, checked_weights, together, values_of

if TYPE_CHECKING:
    from .checkpoints.dialect import Dialect

# Writes what belongs beside a model into a folder, that will be moved to another one; gives names.
Beside = Callable[[Model, Path, Path], list[str]]
METADATA = "metadata.json"
# The versions whose files are written.
KERAS_VERSION = "3.15.1"
KERAS_HUB_VERSION = "0.32.0"
# What a save replaces though its own files have other names.
STALE = (
    *(WEIGHTS, SHARD_INDEX, "model_[0-9][0-9][0-9][0-9][0-9].weights.h5"),
    *(f"{SAFETENSORS}*", "model-*-of-*.safetensors"),
    "diffusion_pytorch_model*.safetensors*",
)


def save_backbone(
    model: Model,
    preset_dir: str | os.PathLike[str],
    max_shard_size: float | None,
    format: str,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    beside: Beside | None = None,
) -> list[str]:
    """See `Backbone.save_to_preset`."""
    carried: list[str] = []
    with together(model, state_dict) as processes:
        if format not in ("keras", "safetensors"):
            raise ValueError(f"format must be 'keras' or 'safetensors', not {format!r}.")
        blank, weights = checked_weights(model, state_dict)
        nbytes = sum(tensor.nbytes for tensor in blank.weights())
        if format == "safetensors":
            name = SAFETENSORS
        elif max_shard_size is not None and nbytes > max_shard_size * 1024**3:
            name = SHARD_INDEX
        else:
            name, max_shard_size = WEIGHTS, None
        path = Path(os.path.expanduser(preset_dir), name)

        def describe(folder: Path) -> None:
            if beside is not None:
                carried.extend(beside(model, folder, path.parent))
            _write_json(folder / CONFIG, model.serialize())
            _write_json(folder / METADATA, _metadata(blank))

        _write(blank, weights, processes, path, max_shard_size, STALE, describe)
    return carried


def _metadata(model: Model) -> dict[str, Any]:
    return {
        "keras_version": KERAS_VERSION,
        "keras_hub_version": KERAS_HUB_VERSION,
        "parameter_count": model.count_params(),
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
        "tasks": builtin.tasks(model.class_name),
    }


def save_weights(
    model: Model,
    filepath: str | os.PathLike[str],
    max_shard_size: float | None,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """See `Backbone.save_weights`."""
    path = Path(os.path.expanduser(filepath))
    wanted = ".weights.h5" if max_shard_size is None else ".weights.json"
    with together(model, state_dict) as processes:
        if not path.name.endswith((".safetensors", wanted)):
            raise ValueError(f"The file must end in {wanted}; {path.name} does not.")
        blank, weights = checked_weights(model, state_dict)
        _write(blank, weights, processes, path, max_shard_size, ())


def _write(
    blank: Model,
    weights: Mapping[str, Weight],
    processes: Gathering,
    path: Path,
    max_shard_size: float | None,
    stale: tuple[str, ...],
    describe: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write one file, or with `max_shard_size` (GiB) shards and their index.

    Args:
        stale: other files to be replaced in the folder.
        describe: writes what else belongs there.
    """
    layers = list(keras_tree(blank).walk())
    names = [variable.key for layer in layers for variable in layer.variables]
    is_safetensors = path.name.endswith(".safetensors")
    if is_safetensors:  # by size, so that each is where its type wants it
        names = sorted(weights, key=lambda key: (-weights[key].dtype.itemsize, key))
    values = values_of(weights, names, processes)
    if not processes.writes:
        next(values, None)
        return
    with replacing(path.parent, stale) as folder:
        describe(folder)
        if is_safetensors:
            headers = {key: (weights[key].dtype, weights[key].shape) for key in names}
            write_safetensors(folder / path.name, headers, values)
        else:
            _write_h5(layers, folder / path.name, max_shard_size, values)


def _write_h5(
    layers: Sequence[Layer],
    path: Path,
    max_shard_size: float | None,
    values: Iterator[torch.Tensor],
) -> None:
    writer = WeightWriter(path, max_shard_size)
    try:
        for layer in track(layers, "Writing weights", _nbytes):
            writer.layer(layer.path, layer.name)
            for i, variable in enumerate(layer.variables):
                writer.variable(i, variable.to_keras(next(values)))
    finally:
        writer.close()


def _nbytes(layer: Layer) -> int:
    return sum(variable.tensor.nbytes for variable in layer.variables)


def export_checkpoint(
    model: Model,
    path: str | os.PathLike[str],
    dialect: Dialect,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    beside: Beside | None = None,
) -> list[str]:
    """Write what another library loads.

    Returns:
        Names of what `beside` has written.

    Raises:
        NotImplementedError: the library has no such family, or it is not supported here.
        ValueError: it has the family, but no model of this configuration; or weights that are not
            the model's.
        OSError: the folder cannot be written.
    """
    from .checkpoints.exporting import export, export_plan

    if any(isinstance(layer, Quantized) for layer in model.modules()):
        raise NotImplementedError(
            f"This {model.class_name} is quantized as Keras does it, which no checkpoint of "
            f"{dialect.name} says: export the model that it was made of."
        )
    target = Path(os.path.expanduser(path))
    carried: list[str] = []

    @contextlib.contextmanager
    def destination(place: str) -> Iterator[Path]:
        with replacing(target / place, STALE) as folder:
            yield folder
            if beside is not None and not place:
                carried.extend(beside(model, folder, target))

    with together(model, state_dict) as processes:
        plan = export_plan(dialect, blank_of(model))
        _, weights = checked_weights(model, state_dict)
        export(dialect, plan, weights, processes, destination)
    return carried


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=4))
