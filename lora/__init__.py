"""LoRA on the layers of a backbone, and its files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones._model import Model
from ..backbones.layers.quantized import Quantized
from ..presets.building import changing
from ..presets.gathering import Gathering, local, local_part, reshard
from ..presets.refusals import naming
from ..presets.snapshot import Snapshot, consistently
from ..presets.weights import refuse_broken, together
from .adapters import FACTORS, Adapter, adapter_for, has_heads, layers_named
from .files import Factors, Loaded, is_alpha, load_lora_h5, save_lora_h5
from .sharding import refuse_sharded, share

__all__ = [
    "Adapter",
    "delete_lora",
    "disable_lora",
    "enable_lora",
    "load_lora_weights",
    "merge_lora",
    "save_lora_weights",
    "unmerge_lora",
]

FORMATS = ("keras", "peft")


def enable_lora(
    backbone: Model,
    rank: int | None = None,
    target_layer_names: list[str] | None = None,
    lora_alpha: float | None = None,
    format: str = "keras",
) -> None:
    """See `Backbone.enable_lora`."""
    _check_format(format)
    reshard(backbone)
    existing = adapters(backbone)
    disabled = [layer for layer in existing.values() if not layer.active]
    if rank is None:
        if not disabled:
            raise ValueError("enable_lora needs a rank; without one it undoes disable_lora().")
        _activate(disabled)
        return
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"The rank must be a positive integer, not {rank!r}.")
    if lora_alpha is not None and not is_alpha(lora_alpha):
        raise ValueError(f"lora_alpha must be a finite number other than 0, not {lora_alpha!r}.")
    if not all(layer.merged for layer in existing.values()):
        state = "disabled: enable_lora() enables it" if disabled else "enabled"
        raise ValueError(
            f"LoRA is {state} already; its rank and layers cannot be changed. After merge_lora() "
            "new adapters can be added, after delete_lora() other ones."
        )
    names = target_layer_names
    if names is None:
        names = backbone.default_lora_layer_names()
    if isinstance(names, str):
        raise TypeError(f"target_layer_names must be a list of names, not the string {names!r}.")
    found = layers_named(backbone, names)
    if not found:
        modes = {one.quantization.mode for one in backbone.modules() if isinstance(one, Quantized)}
        if modes - {"int8", "int4"}:
            raise NotImplementedError(
                f"Layers that are {', '.join(sorted(modes))} take no LoRA, as in Keras."
            )
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
    if existing:
        delete_lora(backbone)
    scale = 1.0 if lora_alpha is None else lora_alpha / rank
    _freeze(backbone)
    for path in found:
        flat = format == "peft" and has_heads(backbone.get_submodule(path))
        _wrap(backbone, path, rank, scale, flat)
    share(backbone)


def disable_lora(backbone: Model) -> AbstractContextManager[Any]:
    """See `Backbone.disable_lora`."""
    found = enabled(backbone).values()
    if any(layer.merged for layer in found):
        raise ValueError(
            "LoRA is merged into the weights: call unmerge_lora() first, then it can be disabled."
        )
    active = [layer for layer in found if layer.active]
    for layer in active:
        layer.active = False
    stack = contextlib.ExitStack()
    stack.callback(_activate, active)
    return stack


def delete_lora(backbone: Model) -> None:
    """See `Backbone.delete_lora`."""
    reshard(backbone)
    found = enabled(backbone)
    for path, layer in found.items():
        refuse_sharded(backbone, path, layer)
    for path, layer in found.items():
        _replace(backbone, path, layer.unwrap())
    trained = vars(backbone).pop("_frozen_by_lora", ())
    for name, parameter in backbone.named_parameters():
        if name in trained:
            parameter.requires_grad_(True)
    vars(backbone).pop("_loaded_with_lora", None)


def _activate(layers: Iterable[Adapter]) -> None:
    for layer in layers:
        layer.active = True


def _freeze(backbone: Model) -> None:
    names = [name for name, one in backbone.named_parameters() if one.requires_grad]
    vars(backbone)["_frozen_by_lora"] = frozenset(names)
    backbone.requires_grad_(False)


def _wrap(backbone: Model, path: str, rank: int, scale: float, flat: bool) -> Adapter:
    """Adapt the layer at this path."""
    layer = backbone.get_submodule(path)
    kind = adapter_for(layer, flat)
    assert kind is not None
    adapted = kind.wrap(layer, rank, scale)
    _replace(backbone, path, adapted)
    return adapted


def _replace(backbone: Model, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(backbone.get_submodule(parent), name, layer)


def _check_format(format: str) -> None:
    if format not in FORMATS:
        raise ValueError(f"format must be {' or '.join(map(repr, FORMATS))}, not {format!r}.")


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
    found = enabled(backbone).values()
    if not all(layer.active for layer in found):
        raise ValueError("LoRA is disabled: call enable_lora() first, then it can be merged.")
    reshard(backbone)
    for layer in found:
        layer.merge()


def unmerge_lora(backbone: Model) -> None:
    """See `Backbone.unmerge_lora`."""
    reshard(backbone)
    for layer in enabled(backbone).values():
        layer.merge(sign=-1)


def save_lora_weights(
    backbone: Model,
    filepath: str | os.PathLike[str],
    format: str,
    order: str,
    base_model: str | os.PathLike[str] | None = None,
) -> None:
    """See `Backbone.save_lora_weights`."""
    _check_format(format)
    path = Path(os.path.expanduser(filepath))
    with together(backbone) as processes:
        refuse_broken(backbone)
        found = enabled(backbone)
        if format == "peft":
            from .peft import save_peft

            extra = vars(backbone).get("_loaded_with_lora", ())
            save_peft(backbone, found, processes, path, base_model, extra)
        else:
            save_lora_h5(backbone, found, processes, path, order)


def load_lora_weights(
    backbone: Model, filepath: str | os.PathLike[str], ignore: Iterable[str] = ()
) -> None:
    """See `Backbone.load_lora_weights`."""
    path = Path(os.path.expanduser(filepath))
    with together(backbone) as processes, naming(str(path)):
        _load(backbone, processes, path, ignore)


def _load(backbone: Model, processes: Gathering, path: Path, ignore: Iterable[str]) -> None:
    found = adapters(backbone)
    if path.is_dir() or path.suffix in (".safetensors", ".bin"):
        from .peft import load_peft

        snapshot = Snapshot(path)
        loaded = consistently(snapshot, lambda: load_peft(backbone, snapshot, found, ignore))
    else:
        loaded = load_lora_h5(backbone, path, found)
    _compare(path, loaded, found)
    refuse_broken(backbone)
    processes.agree()
    with torch.no_grad(), changing(backbone):
        for name, value in loaded.base.items():
            _fill(backbone.get_parameter(name), value)
        if loaded.base:
            known = vars(backbone).get("_loaded_with_lora", frozenset())
            vars(backbone)["_loaded_with_lora"] = known | loaded.base.keys()
        _install(backbone, loaded.factors, found)


def _compare(path: Path, loaded: Loaded, found: Mapping[str, Adapter]) -> None:
    """Whether what was loaded is for the layers with LoRA enabled, where it is.

    Raises:
        ValueError: it is not, or has no finite values.
    """
    broken = [
        name
        for name, one in loaded.factors.items()
        if not (one.a.isfinite().all() and one.b.isfinite().all())
    ]
    if broken:
        raise ValueError(f"{path} holds values that are not finite, for {', '.join(broken)}.")
    if not found:
        return
    ranks = {one.rank for one in loaded.factors.values()}
    for name in loaded.factors.keys() & found.keys():
        if loaded.factors[name].rank != found[name].rank:
            raise ValueError(
                f"{path} was made at rank {' and '.join(map(str, sorted(ranks)))}, but LoRA is "
                f"enabled at rank {found[name].rank}."
            )
    if loaded.factors.keys() != found.keys():
        raise ValueError(
            f"{path} was made for other layers than those with LoRA enabled: "
            f"{', '.join(sorted(loaded.factors.keys() ^ found.keys()))}."
        )


def _install(backbone: Model, factors: Mapping[str, Factors], found: Mapping[str, Adapter]) -> None:
    """Give the layers these factors; where they are of another form, in a layer of that form."""
    if not found:
        _freeze(backbone)
    merged = [layer for layer in found.values() if layer.merged]
    for layer in merged:
        layer.merge(sign=-1)
    placed: dict[int, nn.Parameter] = {}  # by the tensor that they were read into
    for path, one in factors.items():
        old = found.get(path)
        if old is None:
            layer = _wrap(backbone, path, one.rank, one.scale, one.flat)
        elif adapter_for(old, one.flat) is old.adapter_class:
            layer = old
        else:
            layer = _reformed(backbone, path, old, one.flat)
        a: Any = layer.lora_kernel_a
        if id(one.a) in placed:
            a = placed[id(one.a)]
        elif any(a is other for other in placed.values()):  # shared until now
            a = nn.Parameter(a.clone(), a.requires_grad)
        placed[id(one.a)] = layer.lora_kernel_a = a
        _fill(a, one.a)
        _fill(layer.lora_kernel_b, one.b * (one.scale / layer.scale))
    share(backbone)
    if merged:
        merge_lora(backbone)


def _fill(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole value, or the part of this process where the tensor is sharded."""
    local(tensor).copy_(local_part(value, tensor))


def _reformed(backbone: Model, path: str, old: Adapter, flat: bool) -> Adapter:
    """An adapter of another form in place of this one."""
    refuse_sharded(backbone, path, old)
    before, rank, scale, active = old.lora_kernel_b, old.rank, old.scale, old.active
    _replace(backbone, path, old.unwrap())
    new = _wrap(backbone, path, rank, scale, flat)
    new.active = active
    for name in FACTORS:
        factor = getattr(new, name).to(before.dtype)
        setattr(new, name, nn.Parameter(factor, before.requires_grad))
    return new
