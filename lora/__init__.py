"""LoRA on the layers of a backbone, and its files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from ..backbones._model import Model
from ..backbones.layers.layout import keras_children
from .adapters import Adapter, adapter_for
from .files import load_lora_h5, save_lora_h5

__all__ = [
    "Adapter",
    "enable_lora",
    "load_lora_weights",
    "merge_lora",
    "save_lora_weights",
    "unmerge_lora",
]


def enable_lora(
    backbone: Model,
    rank: int,
    target_layer_names: list[str] | None = None,
    lora_alpha: float | None = None,
) -> None:
    """See `Backbone.enable_lora`."""
    names = target_layer_names
    if names is None:
        names = backbone.default_lora_layer_names()
    if isinstance(names, str):
        raise TypeError(f"target_layer_names must be a list of names, not the string {names!r}.")
    found = layers_named(backbone, names)
    if not found:
        raise ValueError(
            f"{type(backbone).__name__} has no layer that takes LoRA among the names "
            f"{', '.join(names)}. Choose others by target_layer_names; summary() shows them."
        )
    if target_layer_names is not None:
        present = {path.rpartition(".")[2] for path in found}
        known = {name for name in names if layers_named(backbone, [name])}
        if known != set(names):
            missing = ", ".join(sorted(set(names) - known))
            raise ValueError(f"No layer that takes LoRA is called {missing} ({present} are).")
    adapt(backbone, found, rank, lora_alpha)


def adapt(
    backbone: Model, paths: Iterable[str], rank: int, lora_alpha: float | None = None
) -> None:
    """Freeze a backbone and adapt the layers at these paths."""
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"The rank must be a positive integer, not {rank!r}.")
    if adapters(backbone):
        raise ValueError("LoRA is enabled already; its rank and layers cannot be changed.")
    backbone.requires_grad_(False)
    scale = 1.0 if lora_alpha is None else lora_alpha / rank
    for path in paths:
        layer = backbone.get_submodule(path)
        adapter = adapter_for(layer)
        assert adapter is not None
        parent, _, name = path.rpartition(".")
        adapted = adapter.wrap(layer, rank, scale)
        setattr(backbone.get_submodule(parent), name, adapted)


def layers_named(backbone: Model, names: Iterable[str]) -> list[str]:
    """Paths of the modules with one of these Keras names that can be adapted."""
    wanted = set(names)
    found: list[str] = []

    def search(module: nn.Module, prefix: str) -> None:
        for child in keras_children(module):
            path = f"{prefix}{child.path}"
            if child.name in wanted and adapter_for(child.module) is not None:
                found.append(path)
            search(child.module, f"{path}.")

    search(backbone, "")
    return found


def adapters(backbone: Model) -> dict[str, Adapter]:
    """Adapted layers by path."""
    return {
        path: module for path, module in backbone.named_modules() if isinstance(module, Adapter)
    }


def enabled(backbone: Model) -> dict[str, Adapter]:
    """As `adapters`.

    Raises:
        ValueError: there are none.
    """
    found = adapters(backbone)
    if not found:
        raise ValueError("LoRA is not enabled: call enable_lora(rank) first.")
    return found


def merge_lora(backbone: Model) -> None:
    """See `Backbone.merge_lora`."""
    for layer in enabled(backbone).values():
        layer.merge()


def unmerge_lora(backbone: Model) -> None:
    """See `Backbone.unmerge_lora`."""
    for layer in enabled(backbone).values():
        layer.merge(sign=-1)


def save_lora_weights(
    backbone: Model, filepath: str | os.PathLike[str], format: str, order: str
) -> None:
    """See `Backbone.save_lora_weights`."""
    if format not in ("keras", "peft"):
        raise ValueError(f"format must be 'keras' or 'peft', not {format!r}.")
    found = enabled(backbone)
    if format == "peft":
        from .peft import save_peft

        save_peft(backbone, found, Path(os.path.expanduser(filepath)))
    else:
        save_lora_h5(backbone, found, Path(os.path.expanduser(filepath)), order)


def load_lora_weights(backbone: Model, filepath: str | os.PathLike[str]) -> None:
    """See `Backbone.load_lora_weights`."""
    path = Path(os.path.expanduser(filepath))
    if path.is_dir():
        from .peft import load_peft

        values, scale = load_peft(backbone, path)
    else:
        values, scale = load_lora_h5(backbone, path, set(adapters(backbone)))
    rank = next(iter(values.values()))[1].shape[0]
    found = adapters(backbone)
    if not found:
        adapt(backbone, values, rank, scale * rank)
        found = adapters(backbone)
    different = {layer.rank for layer in found.values()} - {rank}
    if different:
        raise ValueError(
            f"{path} was made at rank {rank}, but LoRA is enabled at rank {different.pop()}."
        )
    if values.keys() != found.keys():
        raise ValueError(
            f"{path} was made for other layers than those with LoRA enabled: "
            f"{', '.join(sorted(values.keys() ^ found.keys()))}."
        )
    with torch.no_grad():
        for layer_path, (a, b) in values.items():
            layer = found[layer_path]
            merged = layer.merged
            layer.merge(sign=-1)
            layer.lora_kernel_a.copy_(a)
            layer.lora_kernel_b.copy_(b * (scale / layer.scale))
            if merged:
                layer.merge()
