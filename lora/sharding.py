"""Adapters of models that are sharded over processes.

Those that are there before `fully_shard` are sharded with the model. FSDP does not take in any that
come later. They are small: every process has them whole, and their gradients are averaged as those
of FSDP's own parameters are. Where a layer computes with DTensors (tensor parallelism), so does its
adapter, the same one in all processes; one that computes with its part of the weights takes what
goes with it of the factors (`distributed/parallel.py`), whose gradients are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn

from ..backbones._model import Model
from ..presets.gathering import is_fully_sharded, is_sharded, local
from .adapters import FACTORS, Adapter

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def share(backbone: Model) -> None:
    """Have new adapters equal in all processes, and trained by what all of them see."""
    meshes = dict.fromkeys(one.device_mesh for one in backbone.parameters() if is_sharded(one))
    if not meshes:
        return
    everyone = max(meshes, key=lambda mesh: mesh.size())
    shared: dict[int, nn.Parameter] = {}  # layers may have one first factor
    for path, layer in backbone.named_modules():
        if isinstance(layer, Adapter):
            around = list(_around(backbone, path))
            for name in FACTORS:
                factor: Any = getattr(layer, name)
                if id(factor) not in shared:
                    shared[id(factor)] = _shared(factor, layer, around, everyone)
                setattr(layer, name, shared[id(factor)])


def refuse_sharded(backbone: Model, path: str, layer: Adapter) -> None:
    """Raises ValueError: the adapter was sharded with the model, and cannot be taken out of it."""
    placements = getattr(layer.lora_kernel_b, "placements", ())
    if any(one.is_shard() for one in placements) and any(_around(backbone, path)):
        raise ValueError(
            f"The adapter of {path} was sharded together with the model, which holds on to it. "
            "Save the adapters, and load them after fully_shard, into a model without any."
        )


def _around(backbone: Model, path: str) -> Iterator[nn.Module]:
    """The modules that hold this one, and itself, which `fully_shard` was applied to; the nearest
    first.
    """
    parts = path.split(".")
    for count in range(len(parts), -1, -1):
        module = backbone.get_submodule(".".join(parts[:count]))
        if is_fully_sharded(module):
            yield module


def _shared(
    factor: nn.Parameter, layer: Adapter, around: Sequence[nn.Module], everyone: DeviceMesh
) -> nn.Parameter:
    """A factor that all processes have, in place of one that each has for itself."""
    weights = (layer.weight, *(one for module in around for one in module.parameters()))
    weight = next((one for one in weights if is_sharded(one)), None)
    if weight is None or is_sharded(factor) or hasattr(factor, "is_averaged"):
        return factor
    from torch.distributed.tensor import DTensor, Replicate

    # FSDP's axes come first: one, or with replicas of the shards two.
    mesh, first = weight.device_mesh, 0
    if around:
        first = 2 if mesh.ndim > 1 and weight.placements[0].is_replicate() else 1
    with torch.no_grad():
        for group in everyone.get_all_groups():
            distributed.broadcast(factor, group=group, group_src=0)
    trains = factor.requires_grad
    if first < mesh.ndim and is_sharded(layer.weight):
        names = mesh.mesh_dim_names
        inner = mesh if not first or names is None else mesh[names[first:]]
        same = [Replicate()] * inner.ndim
        factor = nn.Parameter(DTensor.from_local(factor.detach(), inner, same))
    factor.requires_grad_(True)  # without it there are no hooks
    factor.register_post_accumulate_grad_hook(_averaging(mesh.get_all_groups()[:first]))
    factor.requires_grad_(trains)
    vars(factor)["is_averaged"] = True
    return factor


def _averaging(groups: Sequence[Any]) -> Callable[[torch.Tensor], None]:
    def average(factor: torch.Tensor) -> None:
        assert factor.grad is not None
        gradient = local(factor.grad)
        for group in groups:
            distributed.all_reduce(gradient, group=group)
            gradient /= distributed.get_world_size(group)

    return average
