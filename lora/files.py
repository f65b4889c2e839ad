"""`.lora.h5` files, which name layers by their index among Keras's flattened layers."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones._model import Model
from ..presets.gathering import Gathering
from ..presets.keras.h5 import Dataset, WeightFile
from ..presets.keras.tree import flat_layers
from ..presets.refusals import shortened
from ..presets.replacing import replacing
from ..presets.weights import with_tensors
from .adapters import FACTORS, Adapter, adapter_for, adapter_shapes, layers_named

ORDERS = ("jax", "torch")
A, B = FACTORS
# Beyond it, and beyond the layer's sizes, nothing of a low rank is meant.
MAX_RANK = 1024
MAX_ALPHA = 1e30


def is_alpha(value: Any) -> bool:
    """Whether a value may be a `lora_alpha`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < abs(value) < MAX_ALPHA


def is_low(rank: int, rows: int, columns: int) -> bool:
    """Whether a rank may be meant for a matrix; files of enormous ones are refused unread."""
    return rank <= max(MAX_RANK, rows, columns)


@dataclass(frozen=True)
class Factors:
    """What a file holds for one layer.

    Attributes:
        a, b: the factors, in the shapes of the adapted layer. Layers with the same tensor `a`
            share it as a parameter.
        scale: of what they add.
        flat: whether they are of the flat form.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float = 1.0
    flat: bool = False

    @property
    def rank(self) -> int:
        return len(self.b)


@dataclass(frozen=True)
class Loaded:
    """What a file holds for a model.

    Attributes:
        factors: by the path of the layer.
        base: whole weights that come with the adapter, by name.
    """

    factors: dict[str, Factors]
    base: dict[str, torch.Tensor] = field(default_factory=dict)


def save_lora_h5(
    backbone: Model, found: Mapping[str, Adapter], processes: Gathering, path: Path, order: str
) -> None:
    """Write the adapters, their scale multiplied into the second factor, as KerasHub has none.

    The file has one rank. Flat factors, and layers of other ranks, are brought to the smallest
    one at which all are exactly what they were.

    Raises:
        ValueError: the name does not end in `.lora.h5`, or an unknown order.
        OSError: it cannot be written.
    """
    _check_name(path)
    if order not in ORDERS:
        raise ValueError(f"order must be 'jax' or 'torch', not {order!r}.")
    indexes = _indexes(backbone, order)
    whole = whole_adapters(found, processes)
    if processes.writes:
        _write_lora_h5(path, whole, indexes)


def whole_adapters(found: Mapping[str, Adapter], processes: Gathering) -> dict[str, Any]:
    """The same layers with whole factors, for the process that writes."""
    layers = {}
    for path, layer in found.items():
        factors = {name: processes.whole(getattr(layer, name)) for name in FACTORS}
        if processes.writes:
            layers[path] = with_tensors(layer, factors)
    return layers


def _write_lora_h5(path: Path, found: Mapping[str, Any], indexes: Mapping[str, int]) -> None:
    import h5py

    with torch.no_grad():
        factors = {
            name: (a.detach().float().cpu(), (b.float() * found[name].scale).cpu())
            for name, (a, b) in ((name, layer.keras_factors()) for name, layer in found.items())
        }
    rank = max(len(b) for _, b in factors.values())
    # In memory, because HDF5 can crash where the disk is full.
    content = io.BytesIO()
    with h5py.File(content, "w") as store:
        store["lora/vars/rank"] = rank
        for layer_path, (a, b) in sorted(factors.items(), key=lambda item: indexes[item[0]]):
            group = store.create_group(f"lora/{indexes[layer_path]}/vars")
            missing = rank - len(b)
            group["lora_kernel_a"] = nn.functional.pad(a, (0, missing)).numpy()
            group["lora_kernel_b"] = nn.functional.pad(b, (0, 0, 0, missing)).numpy()
    with replacing(path.parent, stale=()) as folder:
        (folder / path.name).write_bytes(content.getbuffer())


def load_lora_h5(backbone: Model, path: Path, found: Mapping[str, Adapter]) -> Loaded:
    """The factors by path of the layer they are for.

    The file does not say whose order it counts in: the one that fits the layers with LoRA enabled
    (`found`) is taken, or where it is not enabled the default ones, or else any in which all
    shapes fit. Shapes are compared before anything but the rank is read.

    Raises:
        ValueError: it fits this model in no order.
    """
    _check_name(path)
    with WeightFile(path) as file:
        stored: dict[int, dict[str, str]] = {}
        for name in file.datasets:
            match = re.fullmatch(r"lora/(0|[1-9][0-9]{0,8})/vars/(lora_kernel_[ab])", name)
            if match is not None:
                stored.setdefault(int(match[1]), {})[match[2]] = name
            elif name != "lora/vars/rank":
                raise ValueError(f"{path} has {shortened(name)}, which is no part of a LoRA file.")
        if "lora/vars/rank" not in file.datasets or not stored:
            raise ValueError(f"{path} holds no LoRA weights.")
        rank = _rank(file, file.datasets["lora/vars/rank"])
        candidates = []
        for order in ORDERS:
            paths = {index: name for name, index in _indexes(backbone, order).items()}
            if all(
                index in paths and _fits(backbone, paths[index], rank, file, names)
                for index, names in stored.items()
            ):
                candidates.append({paths[index]: names for index, names in stored.items()})
        if not candidates:
            layers = shortened(", ".join(map(str, sorted(stored))))
            raise ValueError(
                f"{path} (rank {rank}, layers {layers}) does not fit {type(backbone).__name__} "
                "with this configuration."
            )
        wanted = set(found or layers_named(backbone, backbone.default_lora_layer_names()))
        chosen = next((c for c in candidates if c.keys() == wanted), candidates[0])
        file.unpack(file.datasets[name] for names in chosen.values() for name in names.values())
        factors = {
            layer: Factors(a=file.datasets[names[A]].read(), b=file.datasets[names[B]].read())
            for layer, names in chosen.items()
        }
    return Loaded(factors)


def _rank(file: WeightFile, dataset: Dataset) -> int:
    """The rank that a file declares.

    Raises:
        ValueError: it is none.
    """
    if dataset.shape != () or dataset.dtype is torch.bool:
        raise ValueError(
            f"{file.path} has a rank of shape {dataset.shape} and type {dataset.dtype}."
        )
    file.unpack([dataset])
    value = dataset.read().item()
    if not 1 <= value < 2**31 or value != int(value):
        raise ValueError(f"{file.path} has the rank {value}, which is no positive integer.")
    return int(value)


def _fits(
    backbone: Model, layer_path: str, rank: int, file: WeightFile, names: Mapping[str, str]
) -> bool:
    layer = backbone.get_submodule(layer_path)
    if adapter_for(layer) is None or names.keys() != set(FACTORS):
        return False
    stored = [file.datasets[names[name]] for name in FACTORS]
    expected = adapter_shapes(layer, rank)
    (*outer, _), (_, last) = expected
    return (
        is_low(rank, math.prod(outer), last)
        and all(dataset.dtype.is_floating_point for dataset in stored)
        and tuple(dataset.shape for dataset in stored) == expected
    )


def _indexes(backbone: Model, order: str) -> dict[str, int]:
    """Path of each module that stands for a Keras layer with weights → its index."""
    return {layer.key: index for index, layer in enumerate(flat_layers(backbone, order))}


def _check_name(path: Path) -> None:
    if not path.name.endswith(".lora.h5"):
        raise ValueError(f"The file must end in .lora.h5; {path.name} does not.")
