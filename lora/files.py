"""`.lora.h5` files, which name layers by their index among Keras's flattened layers."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from ..backbones._model import Model
from ..presets.keras.h5 import WeightFile
from ..presets.keras.tree import flat_layers
from ..presets.saving import replacing
from .adapters import Adapter, adapter_for, adapter_shapes

Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]
ORDERS = ("jax", "torch")


def save_lora_h5(backbone: Model, found: Mapping[str, Adapter], path: Path, order: str) -> None:
    """Write the adapters, their scale multiplied into the second factor, as KerasHub has none.

    Raises:
        ValueError: the name does not end in `.lora.h5`, or an unknown order.
        OSError: it cannot be written.
    """
    import h5py

    _check_name(path)
    if order not in ORDERS:
        raise ValueError(f"order must be 'jax' or 'torch', not {order!r}.")
    indexes = _indexes(backbone, order)
    # In memory, because HDF5 can crash where the disk is full.
    content = io.BytesIO()
    with h5py.File(content, "w") as store:
        store["lora/vars/rank"] = next(iter(found.values())).rank
        for layer_path, layer in sorted(found.items(), key=lambda item: indexes[item[0]]):
            group = store.create_group(f"lora/{indexes[layer_path]}/vars")
            b = layer.lora_kernel_b * layer.scale
            group["lora_kernel_a"] = layer.lora_kernel_a.detach().cpu().numpy()
            group["lora_kernel_b"] = b.detach().cpu().numpy()
    with replacing(path.parent, stale=()) as folder:
        (folder / path.name).write_bytes(content.getbuffer())


def load_lora_h5(backbone: Model, path: Path, enabled: Collection[str]) -> tuple[Factors, float]:
    """The factors by path of the layer they are for, and their scale.

    The file does not say whose order it counts in: the one that fits the `enabled` layers is
    taken, or where LoRA is not enabled the default ones, or else any in which all shapes fit.

    Raises:
        ValueError: it fits this model in no order.
    """
    _check_name(path)
    with WeightFile(path) as file:
        stored: dict[int, dict[str, str]] = {}
        for name in file.datasets:
            parts = name.split("/")
            if len(parts) == 4 and parts[0] == "lora" and parts[1].isdigit():
                stored.setdefault(int(parts[1]), {})[parts[3]] = name
            elif name != "lora/vars/rank":
                raise ValueError(f"{path} has {name}, which is no part of a LoRA file.")
        if "lora/vars/rank" not in file.datasets or not stored:
            raise ValueError(f"{path} holds no LoRA weights.")
        rank = int(file.datasets["lora/vars/rank"].read())
        candidates = []
        for order in ORDERS:
            paths = {index: name for name, index in _indexes(backbone, order).items()}
            if all(
                index in paths and _fits(backbone, paths[index], rank, file, names)
                for index, names in stored.items()
            ):
                candidates.append({paths[index]: names for index, names in stored.items()})
        if not candidates:
            raise ValueError(
                f"{path} (rank {rank}, layers {', '.join(map(str, sorted(stored)))}) does not fit "
                f"{type(backbone).__name__} with this configuration."
            )
        from . import layers_named

        wanted = set(enabled or layers_named(backbone, backbone.default_lora_layer_names()))
        chosen = next((c for c in candidates if c.keys() == wanted), candidates[0])
        factors = {
            layer: (
                file.datasets[names["lora_kernel_a"]].read(),
                file.datasets[names["lora_kernel_b"]].read(),
            )
            for layer, names in chosen.items()
        }
    return factors, 1.0


def _fits(
    backbone: Model, layer_path: str, rank: int, file: WeightFile, names: Mapping[str, str]
) -> bool:
    layer = backbone.get_submodule(layer_path)
    if adapter_for(layer) is None or names.keys() != {"lora_kernel_a", "lora_kernel_b"}:
        return False
    shapes = (
        file.datasets[names["lora_kernel_a"]].shape,
        file.datasets[names["lora_kernel_b"]].shape,
    )
    return shapes == adapter_shapes(layer, rank)


def _indexes(backbone: Model, order: str) -> dict[str, int]:
    """Path of each module that stands for a Keras layer with weights → its index."""
    return {layer.key: index for index, layer in enumerate(flat_layers(backbone, order))}


def _check_name(path: Path) -> None:
    if not path.name.endswith(".lora.h5"):
        raise ValueError(f"The file must end in .lora.h5; {path.name} does not.")
