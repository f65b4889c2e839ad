"""Layers that processes compute together, each with its part of the weights.

The parameters are DTensors, and so is what passes between processes; a layer itself computes with
plain tensors, the parts that are here. What is divided, and how, is said by `Layer.division`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from ..backbones._model import Model
from ..backbones.layers.core import Projection, ReversibleEmbedding
from ..backbones.layers.division import Division, Experts, Vocabulary, Whole


def entered(x: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """What all processes have, where each goes on with its part: gradients are added up."""
    if not x.requires_grad:
        return x
    whole = DTensor.from_local(x, mesh, [Replicate()], run_check=False)
    return whole.to_local(grad_placements=[Partial()])


def added(x: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """The sum over all processes."""
    parts = DTensor.from_local(x, mesh, [Partial()], run_check=False)
    return parts.redistribute(placements=[Replicate()]).to_local()


def gathered(x: torch.Tensor, size: int, mesh: DeviceMesh) -> torch.Tensor:
    """Parts of the last axis, which has this size, as a whole."""
    shape = torch.Size((*x.shape[:-1], size))
    stride = torch.empty(shape, device="meta").stride()
    place = [Shard(x.ndim - 1)]
    parts = DTensor.from_local(x, mesh, place, run_check=False, shape=shape, stride=stride)
    return parts.redistribute(placements=[Replicate()]).to_local()


class Here(nn.Module):
    """A layer whose weights, while it computes, read as what this process has of them."""

    mesh: DeviceMesh
    computing = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.computing = True
        try:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.computing = False

    def here(self, name: str) -> torch.Tensor | None:
        parameter = self._parameters[name]
        return parameter.to_local() if isinstance(parameter, DTensor) else parameter


class Shared(Here):
    """A layer with whole weights that acts on a part of something."""

    def here(self, name: str) -> torch.Tensor | None:
        parameter = super().here(name)
        return None if parameter is None else entered(parameter, self.mesh)


class Column(Here):
    """A projection with a part of its outputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(entered(x, self.mesh))  # type: ignore[no-any-return, misc]


class Row(Here):
    """A projection with a part of its inputs. The bias is added once."""

    def here(self, name: str) -> torch.Tensor | None:
        return None if name == "bias" else super().here(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = added(super().forward(x), self.mesh)  # type: ignore[misc]
        bias = super().here("bias")
        return y if bias is None else y + bias.to(y.dtype)


class Rows(Here):
    """A table with some of the rows, and the logits of these."""

    first: int
    count: int
    size: int

    def forward(self, inputs: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        if reverse:
            return super().forward(inputs, reverse)  # type: ignore[no-any-return, misc]
        rows = inputs - self.first
        elsewhere = (rows < 0) | (rows >= self.count)
        x = super().forward(rows.masked_fill(elsewhere, 0))  # type: ignore[misc]
        # No view, which FSDP would warn of.
        return added(x.masked_fill(elsewhere[..., None], 0), self.mesh).clone()

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        y = super().logits(entered(x, self.mesh))  # type: ignore[misc]
        return gathered(y, self.size, self.mesh)


class Across(Here):
    """A layer without weights that looks at all of what is divided."""

    first: int
    count: int
    size: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = entered(gathered(x, self.size, self.mesh), self.mesh)
        return super().forward(whole).narrow(-1, self.first, self.count)  # type: ignore[misc, no-any-return]


class Some(Here):
    """Some of the experts."""

    some = True
    first: int
    count: int

    def forward(
        self, x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        experts = experts - self.first
        elsewhere = (experts < 0) | (experts >= self.count)
        x, weights = entered(x, self.mesh), entered(weights, self.mesh)
        experts = experts.masked_fill(elsewhere, self.count)
        y = super().forward(x, experts, weights.masked_fill(elsewhere, 0))  # type: ignore[misc]
        return added(y, self.mesh)


class Cut(Here):
    """A layer with arguments that come whole, and of which it takes its part."""

    names: tuple[str, ...]  # of the arguments of `forward`
    division: Division

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(self.names, args), **kwargs)
        for name, axis in self.division.arguments.items():
            whole = entered(given[name], self.mesh)
            if whole.shape[axis] > 1:
                size = whole.shape[axis] // self.mesh.size()
                given[name] = whole.narrow(axis, self.mesh.get_local_rank() * size, size)
        return super().forward(**given)


@functools.cache
def _class(kind: type[Here], cls: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """A class of layers as another one, with parameters of these names."""

    def weight(name: str) -> property:
        return property(lambda self: self.here(name) if self.computing else self._parameters[name])

    properties = {name: weight(name) for name in names}
    return type(cls.__name__, (kind, cls), {**properties, "__module__": cls.__module__})


class Divided:
    """A model on the meta device, divided over a dimension of a mesh.

    Raises:
        ValueError: it has layers that cannot be divided, or not by so many; it names them.
    """

    def __init__(self, model: Model, mesh: DeviceMesh) -> None:
        self.mesh = mesh
        self.count = mesh.size()
        self.rank = mesh.get_local_rank()
        self.kinds: dict[nn.Module, type[Here]] = {}
        self.axes: dict[tuple[nn.Module, str], int] = {}
        self.sizes: dict[nn.Module, int] = {}
        self.fused: dict[nn.Module, int] = {}
        known: set[nn.Module] = set()
        problems: list[str] = []
        layers = list(model.named_modules())
        for path, layer in layers:
            division: Division | None = getattr(layer, "division", None)
            if division is not None:
                problems += self._plan(path, layer, division)
                known |= {layer, *_children(layer, division.whole)}
                if isinstance(division, Whole):
                    known |= set(layer.modules())
        name = model.class_name
        if not self.kinds:
            raise ValueError(f"{name} has no tensor plan; use plan='fsdp'.")
        undivided = sorted(_undivided(model, known | self.kinds.keys()))
        if undivided:
            raise ValueError(
                f"{name} has no tensor plan; use plan='fsdp'. These layers cannot be divided: "
                f"{', '.join(undivided)}."
            )
        if problems:
            raise ValueError(
                f"{name} cannot be divided by {self.count}:\n  " + "\n  ".join(problems)
            )
        for _, layer in layers:
            self._divide(layer)
        for _, layer in layers:
            if isinstance(layer, Model) and layer.cache_shapes:
                layer.cache_shapes = [self._part(shape) for shape in layer.cache_shapes]

    def _plan(self, path: str, layer: nn.Module, division: Division) -> Iterator[str]:
        """Note what becomes of a layer, and say what is wrong with that."""
        for axis, children in enumerate((division.columns, division.rows)):
            for child in _children(layer, children):
                assert isinstance(child, Projection)
                self.kinds[child] = Row if axis else Column
                self.axes[child, "weight"] = axis
                if not axis:
                    self.axes[child, "bias"] = 0
        for name, count in division.fused.items():
            child = layer.get_submodule(name)
            self.fused[child] = count
            size = child.out_features // count  # type: ignore[operator]
            if size % self.count:
                yield f"{path}.{name} has {count} x {size} outputs"
        for child in _children(layer, division.shared):
            self.kinds[child] = Shared
        for child in _children(layer, division.across):
            if not isinstance(child, nn.Identity):
                self.kinds[child] = Across
                self.sizes[child] = layer.get_submodule(division.columns[0]).out_features
        for child in _children(layer, division.tables):
            yield from self._plan(f"{path}.{child}", child, ReversibleEmbedding.division)
        held = {
            k: axis for k, axis in division.weights.items() if layer._parameters.get(k) is not None
        }
        for name, axis in held.items():
            self.axes[layer, name] = axis
        if division.arguments:
            self.kinds[layer] = Cut
            layer.names = tuple(inspect.signature(layer.forward).parameters)
        if isinstance(division, Vocabulary):
            self.kinds[layer] = Rows
            self.sizes[layer] = size = len(layer.weight)
            if -(-size // self.count) * (self.count - 1) >= size:
                yield f"{path} has {size} rows"
        elif isinstance(division, Experts):
            self.kinds[layer] = Some
            self.sizes[layer] = size = len(layer._parameters[next(iter(held))])
            if size % self.count:
                yield f"{path} has {size} experts"
        for name in division.heads:
            size = getattr(layer, name)
            if size % self.count:
                yield f"{path}.{name} is {size}"

    def _divide(self, layer: nn.Module) -> None:
        names = tuple(layer._parameters)
        kind = self.kinds.get(layer, Here)
        for name, parameter in layer._parameters.items():
            if parameter is None:
                continue
            axis = self.axes.get((layer, name))
            place: Placement = Replicate() if axis is None else Shard(axis)
            if layer in self.fused:
                place = _StridedShard(0, split_factor=self.fused[layer])
            layer._parameters[name] = self._distributed(parameter, place)
        division = getattr(layer, "division", None)
        for name in () if division is None else division.heads:
            setattr(layer, name, getattr(layer, name) // self.count)
        if layer in self.sizes:
            layer.size = self.sizes[layer]
            layer.first, layer.count = self._run(layer.size)
        if names or kind is not Here:
            layer.mesh = self.mesh
            layer.__class__ = _class(kind, type(layer), names)

    def _distributed(self, parameter: nn.Parameter, place: Placement) -> nn.Parameter:
        local = parameter.detach()
        if isinstance(place, _StridedShard):
            parts = [part.chunk(self.count)[self.rank] for part in local.chunk(place.split_factor)]
            local = torch.cat(parts)
        elif isinstance(place, Shard):
            run = self._run(local.shape[place.dim])
            local = local.narrow(place.dim, *run).contiguous()
        whole = DTensor.from_local(
            local,
            self.mesh,
            [place],
            run_check=False,
            shape=parameter.shape,
            stride=parameter.stride(),
        )
        return nn.Parameter(whole, parameter.requires_grad)

    def _run(self, size: int) -> tuple[int, int]:
        """Where the part of an axis begins that is here, and how long it is, as torch.chunk."""
        step = -(-size // self.count)
        first = min(self.rank * step, size)
        return first, min(step, size - first)

    def _part(self, shape: Any) -> Any:
        return replace(shape, num_heads=shape.num_heads // self.count)


def _children(layer: nn.Module, names: tuple[str, ...]) -> Iterator[nn.Module]:
    return (child for child in map(layer._modules.get, names) if child is not None)


def _undivided(model: Model, known: set[nn.Module]) -> Iterator[str]:
    """Layers of blocks that hold matrices of which nothing is known."""
    blocks = [block for block in model.modules() if isinstance(block, model.block_classes)]
    inside = {module for block in blocks for module in block.modules()}
    for path, module in model.named_modules():
        large = any(one.ndim > 1 for one in module.parameters(recurse=False))
        if large and module in inside and module not in known:
            yield path
