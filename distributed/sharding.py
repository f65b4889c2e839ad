"""What a process holds of a model, by its plan."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Replicate

from ..backbones._model import Model
from ..backbones.layers.core import ReversibleEmbedding
from ..backbones.layers.quantized import Float8Dense, Quantized
from ..presets.parts import Part, complete, parts_of
from .parallel import Dividing, greatest

PLANS = ("fsdp", "tensor")
TENSOR = "tensor"  # the name of the mesh's dimension that layers are divided over


class Sharding:
    """How the processes of a mesh share a model. See `Backbone.from_preset` for the arguments.

    Raises:
        ValueError: arguments that do not go together.
    """

    def __init__(
        self,
        mesh: DeviceMesh,
        plan: str | Mapping[str, Any],
        mp_policy: MixedPrecisionPolicy | None = None,
        checkpoint_activations: bool = False,
    ) -> None:
        if isinstance(plan, str) and plan not in PLANS:
            raise ValueError(f"plan is {plan!r}; it must be one of {', '.join(map(repr, PLANS))}.")
        self.plan = plan
        self.names = mesh.mesh_dim_names or ()
        if mesh.ndim > 1 and not self.names:
            raise ValueError(
                "A device_mesh of several dimensions needs names for them: "
                'init_device_mesh("cuda", (2, 4), mesh_dim_names=("fsdp", "tensor")).'
            )
        if plan != "fsdp" and self.names and TENSOR not in self.names:
            raise ValueError(
                f"plan={plan!r} needs a dimension of the device_mesh called 'tensor'; it has "
                f"{', '.join(map(repr, self.names))}."
            )
        if mesh.get_coordinate() is None:
            raise ValueError("This process is no part of the device_mesh.")
        self.mesh = mesh
        self.mp_policy = mp_policy
        self.checkpoint_activations = checkpoint_activations

    def place(self, device: str | torch.device | None) -> torch.device:
        """Where this process holds its parts.

        Raises:
            ValueError: elsewhere than the mesh.
        """
        kind = self.mesh.device_type
        if device is not None and torch.device(device).type != kind:
            raise ValueError(f"device is {str(device)!r}, and the device_mesh is one of {kind!r}.")
        if device is not None:
            return torch.device(device)
        if kind == "cpu":
            return torch.device(kind)
        return torch.device(kind, torch.get_device_module(kind).current_device())

    def handle(self) -> DTensor:
        """A tensor that all processes have."""
        same = [Replicate()] * self.mesh.ndim
        empty = torch.empty(0, device=self.place(None))
        return DTensor.from_local(empty, self.mesh, same, run_check=False)

    def share(self, model: Model, device: torch.device) -> Model:
        """See `presets.parts.Sharing`."""
        if self.plan == "fsdp":
            fully_shard_blocks(model, self.mesh, self.mp_policy)
        else:
            rest = tuple(name for name in self.names if name != TENSOR)
            dividing = Dividing(model, self.mesh[TENSOR] if rest else self.mesh)
            if isinstance(self.plan, str):
                dividing.by_layers()
            else:
                dividing.by_names(self.plan)
            if rest and dividing.fused:
                raise ValueError(
                    f"{model.class_name} has projections of several things in one, which can be "
                    "divided over a device_mesh of one dimension only."
                )
            if rest:
                fully_shard_blocks(model, self.mesh[rest], self.mp_policy)
        for layer in model.modules():
            if isinstance(layer, Float8Dense):
                layer.seen = functools.partial(_largest, mesh=self.mesh)
        model.to_empty(device=device)
        if self.checkpoint_activations:
            model.gradient_checkpointing()
        return model

    def parts(self, module: nn.Module, name: str) -> list[Part]:
        """See `presets.parts.Sharing`."""
        return parts_of(getattr(module, name))

    def complete(self, model: Model) -> None:
        """See `presets.parts.Sharing`."""
        complete(model)


def _largest(x: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    return greatest(x.abs().amax(), mesh)


def fully_shard_blocks(
    model: Model, mesh: DeviceMesh, mp_policy: MixedPrecisionPolicy | None = None
) -> None:
    """Apply FSDP2 to every block, and to the rest of the model as a whole."""
    integers = [module for module in model.modules() if isinstance(module, Quantized)]
    if integers and mp_policy is not None and mp_policy.param_dtype is not None:
        raise ValueError(
            "mp_policy has a param_dtype, which quantized weights cannot be cast to: give "
            'from_preset a dtype, "bfloat16" or "mixed_bfloat16".'
        )
    for layer in integers:
        _train_nothing(layer)
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": mp_policy or MixedPrecisionPolicy()}
    # At the root, too: an optimizer made after a forward pass would get what was gathered.
    options["reshard_after_forward"] = True
    units = (*model.block_classes, ReversibleEmbedding)
    for module in reversed(list(model.modules())):  # those within others first
        if isinstance(module, units):
            _fully_shard(module, options)
    _fully_shard(model, options)
    register_fsdp_forward_method(model, "forward_intermediates")


def _train_nothing(layer: Quantized) -> None:
    """Have integers as frozen parameters: FSDP passes over buffers."""
    for name in ("weight", "reverse_embeddings"):
        tensor = layer._buffers.pop(name, None)
        if tensor is not None:
            layer._parameters[name] = nn.Parameter(tensor.contiguous(), requires_grad=False)


def _fully_shard(unit: nn.Module, options: Mapping[str, Any]) -> None:
    for part in _of_other_dtype(unit):
        fully_shard(part, **options)
    fully_shard(unit, **options)


def _of_other_dtype(unit: nn.Module) -> list[nn.Module]:
    """Modules whose own weights cannot be gathered together with most of a unit's."""
    managed = {
        parameter
        for module in unit.modules()
        if isinstance(module, FSDPModule)
        for parameter in module.parameters()
    }
    left = [
        (module, parameter)
        for module in unit.modules()
        for parameter in module.parameters(recurse=False)
        if parameter not in managed and parameter.is_floating_point()
    ]
    own = [parameter.dtype for module, parameter in left if module is unit]
    counts = Counter(own or (parameter.dtype for _, parameter in left))
    main = counts.most_common(1)[0][0] if counts else None
    others = (module for module, parameter in left if parameter.dtype != main)
    return [module for module in dict.fromkeys(others) if module is not unit]
