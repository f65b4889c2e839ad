"""From a model to a preset."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..backbones._model import Model
from . import builtin
from .keras.h5 import WeightWriter
from .keras.tree import Layer, keras_tree
from .loading import CONFIG, SAFETENSORS, SHARD_INDEX, WEIGHTS
from .progress import track

if TYPE_CHECKING:
    from .checkpoints.engine import Dialect

METADATA = "metadata.json"
# The versions whose files are written.
KERAS_VERSION = "3.15.1"
KERAS_HUB_VERSION = "0.32.0"


def save_backbone(
    model: Model, preset_dir: str | os.PathLike[str], max_shard_size: float | None, format: str
) -> None:
    """See `Backbone.save_to_preset`."""
    if format not in ("keras", "safetensors"):
        raise ValueError(f"format must be 'keras' or 'safetensors', not {format!r}.")
    nbytes = sum(tensor.numel() * tensor.itemsize for tensor in model.weights())
    if format == "safetensors":
        weights = SAFETENSORS
    elif max_shard_size is not None and nbytes > max_shard_size * 1024**3:
        weights = SHARD_INDEX
    else:
        weights, max_shard_size = WEIGHTS, None
    with replacing(Path(os.path.expanduser(preset_dir))) as folder:
        _write_json(folder / CONFIG, model.serialize())
        _write_json(folder / METADATA, _metadata(model))
        write_weights(model, folder / weights, max_shard_size)


def _metadata(model: Model) -> dict[str, Any]:
    return {
        "keras_version": KERAS_VERSION,
        "keras_hub_version": KERAS_HUB_VERSION,
        "parameter_count": model.count_params(),
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
        "tasks": builtin.tasks(model.class_name),
    }


def save_weights(
    model: Model, filepath: str | os.PathLike[str], max_shard_size: float | None
) -> None:
    """See `Backbone.save_weights`."""
    path = Path(os.path.expanduser(filepath))
    with replacing(path.parent, stale=()) as folder:
        write_weights(model, folder / path.name, max_shard_size)


def write_weights(model: Model, path: Path, max_shard_size: float | None) -> None:
    """Write one file, or with `max_shard_size` (GiB) shards and the index `path`.

    Raises:
        ValueError: the file's name does not say what it is, or the model has no weights.
    """
    if any(tensor.is_meta for tensor in model.weights()):
        raise ValueError("The model is on the meta device: it has no weights to save.")
    if path.name.endswith(".safetensors"):
        _write_safetensors(model, path)
        return
    wanted = ".weights.h5" if max_shard_size is None else ".weights.json"
    if not path.name.endswith(wanted):
        raise ValueError(f"The file must end in {wanted}; {path.name} does not.")
    writer = WeightWriter(path, max_shard_size)
    try:
        for layer in track(keras_tree(model).walk(), "Writing weights", _nbytes):
            writer.layer(layer.path, layer.name)
            for i, variable in enumerate(layer.variables):
                writer.variable(i, variable.saved)
    finally:
        writer.close()


def _nbytes(layer: Layer) -> int:
    return sum(variable.tensor.nbytes for variable in layer.variables)


def _write_safetensors(model: Model, path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in exportable_state(model).items()}
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    # One step: the library writes a file at once.
    for whole in track([tensors], "Writing weights", lambda _: nbytes):
        save_file(whole, path, metadata={"format": "pt"})


def exportable_state(model: Model) -> dict[str, torch.Tensor]:
    """All weights by name, adapters merged into them."""
    return {
        key: exportable(model, key, tensor)
        for key, tensor in model.state_dict().items()
        if not key.rpartition(".")[2].startswith("lora_kernel_")
    }


def exportable(model: Model, key: str, tensor: torch.Tensor) -> torch.Tensor:
    """A weight of this name, with its adapter merged into it."""
    owner, _, name = key.rpartition(".")
    merged = getattr(model.get_submodule(owner), "merged_tensor", None)
    return tensor if merged is None else merged(name).detach()


def export_checkpoint(model: Model, path: str | os.PathLike[str], dialect: Dialect) -> None:
    """Write what another library loads.

    Raises:
        NotImplementedError: the library has no such family, or it is not supported here.
        ValueError: it has the family, but no model of this configuration.
        OSError: the folder cannot be written.
    """
    from .checkpoints.engine import export

    with replacing(Path(os.path.expanduser(path))) as folder:
        export(dialect, model, folder)


@contextlib.contextmanager
def replacing(
    folder: Path,
    stale: tuple[str, ...] = (
        *(WEIGHTS, SHARD_INDEX, "model_[0-9][0-9][0-9][0-9][0-9].weights.h5"),
        *(f"{SAFETENSORS}*", "model-*-of-*.safetensors"),
    ),
) -> Iterator[Path]:
    """A new folder whose files move into `folder` at the end, when all of them are written.

    Files there that match `stale` and have no successor are removed.

    Raises:
        OSError: `folder` cannot be written; what was in it is whole.
    """
    from safetensors import SafetensorError

    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".saving-", dir=folder, ignore_cleanup_errors=True
        ) as name:
            yield Path(name)
            _move(Path(name), folder, stale)
    except BaseException as error:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError) and error.errno is not None:
            message = f"{folder} cannot be written: {error.strerror}"
            raise OSError(error.errno, message) from error
        if isinstance(error, SafetensorError):
            raise OSError(f"{folder} cannot be written: {error}") from error
        raise


def _move(source: Path, folder: Path, stale: tuple[str, ...]) -> None:
    """Move all files, `config.json` last."""
    probe = source / ".probe"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    files = sorted(source.iterdir(), key=lambda path: path.name == CONFIG)
    old = {path for pattern in stale for path in folder.glob(pattern)}
    old -= {folder / file.name for file in files}
    for file in files:
        file.chmod(mode)  # safetensors would let nobody but the owner read its files
        if file.name == CONFIG:
            for path in old:
                path.unlink()
        os.replace(file, folder / file.name)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=4))
