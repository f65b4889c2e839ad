"""Models that several processes share, over torch.distributed.

What runs is PyTorch's own engine: parameters are DTensors, FSDP2 gathers and reduces them. What is
here says how a family is divided, and reads of a preset what a process holds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..presets.building import ModelType
from ..presets.gathering import gathering
from ..presets.loading import load_backbone
from ..presets.surplus import Ignore
from .sharding import Sharding

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy


def load_shared(
    cls: type[ModelType],
    preset: str | os.PathLike[str],
    load_weights: bool,
    device: str | torch.device | None,
    mmap: bool | None,
    ignore: Ignore,
    dequantize: bool,
    overrides: dict[str, Any],
    mesh: DeviceMesh,
    plan: str | Mapping[str, Any] | None,
    mp_policy: MixedPrecisionPolicy | None,
    checkpoint_activations: bool,
) -> ModelType:
    """See `Backbone.from_preset`."""
    if plan is None:
        raise ValueError("A device_mesh needs a plan: 'fsdp', or 'tensor'.")
    if mmap:
        raise ValueError("mmap=True is for whole weights; with device_mesh only parts are read.")
    sharing = Sharding(mesh, plan, mp_policy, checkpoint_activations)
    where = sharing.place(device)
    with gathering([sharing.handle()]):  # if one process fails, all do
        return load_backbone(
            cls, preset, load_weights, where, None, ignore, dequantize, overrides, sharing
        )
