"""Layers that processes compute together, each with its part of the weights.

The parameters are DTensors, and so is what passes between processes; a layer itself computes with
plain tensors, the parts that are here. What is divided, and how, is said by `Layer.division`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from ..backbones._model import Model
from ..backbones.layers.core import Projection, ReversibleEmbedding
from ..backbones.layers.division import Division, Experts, Vocabulary, Whole
from ..backbones.layers.integers import AbsMaxQuantizer, dequantize_groups
from ..backbones.layers.quantized import ROWS, PackedDense, Quantized, QuantizedDense


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


def greatest(x: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
    """The largest of what the processes have."""
    parts = DTensor.from_local(x, mesh, [Partial("max")] * mesh.ndim, run_check=False)
    return parts.redistribute(placements=[Replicate()] * mesh.ndim).to_local()


@dataclass(frozen=True)
class SharedAbsMaxQuantizer(AbsMaxQuantizer):
    """Of rows of which each process has a part."""

    mesh: DeviceMesh | None = None

    def largest(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        assert self.mesh is not None
        return greatest(super().largest(x, dim), self.mesh)


def run(size: int, rank: int, count: int) -> tuple[int, int]:
    """Where a process's part of an axis begins and how long it is, as by torch.chunk."""
    step = -(-size // count)
    first = min(rank * step, size)
    return first, min(step, size - first)


def cut(x: torch.Tensor, axis: int, mesh: DeviceMesh) -> torch.Tensor:
    """This process's part of what all have."""
    return x.narrow(axis, *run(x.shape[axis], mesh.get_local_rank(), mesh.size()))


class Entry:
    """Where projections of one thing take it, so that its gradients are added up once for all."""

    def __init__(self) -> None:
        self.clear()

    def __reduce__(self) -> Any:  # a copy has taken nothing yet
        return Entry, ()

    def clear(self) -> None:
        self.given: torch.Tensor | None = None
        self.taken: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
        if torch.compiler.is_compiling() or not x.requires_grad:
            return entered(x, mesh)
        if self.taken is None or self.given is not x:
            self.given, self.taken = x, entered(x, mesh)
        return self.taken


class Here(nn.Module):
    """A layer whose weights, while it computes, read as what this process has of them.

    Attributes:
        first, count, size: of what is divided: the first that is here, how many, and of all.
        first_input: of a quantized projection with some of the inputs, the first that is here.
    """

    mesh: DeviceMesh
    computing: bool = False
    first: int
    count: int
    size: int
    first_input: int | None = None
    quantization: Any
    in_order: bool
    # of a class that `_class` made
    kind: type[Here]
    undivided: type[nn.Module]
    names: tuple[str, ...]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.computing = True
        try:
            return super().forward(*args, **kwargs)
        finally:
            self.computing = False

    def held(self, name: str) -> torch.Tensor | None:
        return self._parameters[name] if name in self._parameters else self._buffers[name]

    def here(self, name: str) -> torch.Tensor | None:
        tensor = self.held(name)
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _made, (self.kind, self.undivided, self.names), dict(self.__dict__)

    # Of quantized layers

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """In the backward pass, too; but of a layer that has been given whole weights, these."""
        layer: Any = super()
        before, self.computing = self.computing, isinstance(self.held("weight"), DTensor)
        try:
            weight: torch.Tensor = layer.dequantized(dtype)
        finally:
            self.computing = before
        return weight

    def grouped(
        self, integers: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """Of groups of inputs, some of which are here."""
        layer: Any = super()
        first, size = self.first_input, self.quantization.group_size
        if first is not None and self.computing:
            count = integers.shape[-1]
            index = index.narrow(0, first, count)
            if self.in_order and size != -1:
                if first % size:
                    return dequantize_groups(integers, scale, zero, index)
                groups = slice(first // size, first // size - (-count // size))
                scale, zero = scale[..., groups], zero[..., groups]
        weight: torch.Tensor = layer.grouped(integers, scale, zero, index)
        return weight

    @classmethod
    def with_adapter(cls, adapter: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
        """The class of such layers with an adapter, which has parameters of these names.

        Every process has them whole, and computes with what goes with its part of the weights.
        """
        kind: Any = ADAPTED.get(cls.kind, cls.kind)
        return _class(kind, adapter, (*cls.names, *names))  # type: ignore[arg-type]


class Gathered(Here):
    """A layer whose weights are gathered to be used."""

    def here(self, name: str) -> torch.Tensor | None:
        tensor = self.held(name)
        if not isinstance(tensor, DTensor):
            return tensor
        return tensor.redistribute(placements=[Replicate()]).to_local()


class Shared(Here):
    """A layer with whole weights that acts on a part of something."""

    def here(self, name: str) -> torch.Tensor | None:
        parameter = super().here(name)
        return None if parameter is None else entered(parameter, self.mesh)


class Column(Here):
    """A projection with a part of its outputs, of several things if it gives those."""

    entry: Entry
    pieces: int = 1

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(self.entry(x, self.mesh))


class Row(Here):
    """A projection with a part of its inputs. The bias is added once."""

    entry: Entry
    cast_bias: Callable[..., torch.Tensor]

    def here(self, name: str) -> torch.Tensor | None:
        return None if name == "bias" else super().here(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.entry.clear()
        y = added(super().forward(x), self.mesh)
        bias = super().here("bias")
        return y if bias is None else y + self.cast_bias(bias, y.dtype)


class Rows(Here):
    """A table with some of the rows, and the logits of these."""

    def forward(self, inputs: torch.Tensor, reverse: bool = False) -> Any:
        if reverse:
            return super().forward(inputs, reverse)
        rows = inputs - self.first
        elsewhere = (rows < 0) | (rows >= self.count)
        x = super().forward(rows.masked_fill(elsewhere, 0))
        # No view, which FSDP would warn of.
        return added(x.masked_fill(elsewhere[..., None], 0), self.mesh).clone()

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        y = super().logits(entered(x, self.mesh))  # type: ignore[misc]
        return gathered(y, self.size, self.mesh)


class Across(Here):
    """A layer without weights that looks at all of what is divided."""

    def forward(self, x: torch.Tensor) -> Any:
        whole = entered(gathered(x, self.size, self.mesh), self.mesh)
        return super().forward(whole).narrow(-1, self.first, self.count)


class Some(Here):
    """Some of the experts."""

    some = True

    def forward(
        self, x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        experts = experts - self.first
        elsewhere = (experts < 0) | (experts >= self.count)
        x, weights = entered(x, self.mesh), entered(weights, self.mesh)
        experts = experts.masked_fill(elsewhere, self.count)
        y = super().forward(x, experts, weights.masked_fill(elsewhere, 0))
        return added(y, self.mesh)


class Adapted(Here):
    """A divided layer with an adapter, whose factors every process has whole."""

    def here(self, name: str) -> torch.Tensor | None:
        parameter = super().here(name)
        if parameter is None or not name.startswith("lora_"):
            return parameter
        return entered(parameter, self.mesh)


class AdaptedColumn(Adapted, Column):
    cut_outputs: Callable[..., Any]  # of adapters, as `factors`

    def factors(self) -> Any:
        factors = super().factors()  # type: ignore[misc]
        return self.cut_outputs(*factors, self.cut) if self.computing else factors

    def cut(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        parts = [cut(part, axis, self.mesh) for part in x.chunk(self.pieces, axis)]
        return torch.cat(parts, axis)


class AdaptedRow(Adapted, Row):
    cut_inputs: Callable[..., Any]

    def factors(self) -> Any:
        factors = super().factors()  # type: ignore[misc]
        return self.cut_inputs(*factors, self.cut) if self.computing else factors

    def cut(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return cut(x, axis, self.mesh)


class AdaptedRows(Adapted, Rows):
    def here(self, name: str) -> torch.Tensor | None:
        parameter = super().here(name)
        if parameter is None or name != "lora_kernel_a":
            return parameter
        return parameter.narrow(0, self.first, self.count)


INTEGERS = (torch.int8, torch.uint8)  # of quantized weights
ADAPTED: dict[Any, type[Here]] = {Column: AdaptedColumn, Row: AdaptedRow, Rows: AdaptedRows}


class Cut(Here):
    """A layer with arguments that come whole, and of which it takes its part."""

    takes: tuple[str, ...]  # the names of `forward`'s arguments
    division: Division

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(self.takes, args), **kwargs)
        for name, axis in self.division.arguments.items():
            whole = entered(given[name], self.mesh)
            if whole.shape[axis] > 1:
                size = whole.shape[axis] // self.mesh.size()
                given[name] = whole.narrow(axis, self.mesh.get_local_rank() * size, size)
        return super().forward(**given)


@functools.cache
def _class(kind: Any, cls: Any, names: tuple[str, ...]) -> type[nn.Module]:
    """A class of layers as another one, with parameters of these names."""

    def weight(name: str) -> property:
        return property(lambda self: self.here(name) if self.computing else self.held(name))

    namespace = {name: weight(name) for name in names}
    facts = {"kind": kind, "undivided": cls, "names": names, "__module__": cls.__module__}
    return type(cls.__name__, (kind, cls), {**namespace, **facts})


def _made(kind: Any, cls: Any, names: tuple[str, ...]) -> nn.Module:
    """A layer as it is unpickled, before it has its state."""
    made = _class(kind, cls, names)
    return made.__new__(made)


class Dividing:
    """Divides a model on the meta device over a mesh of one dimension.

    Attributes:
        fused: projections of several things → how many.
    """

    def __init__(self, model: Model, mesh: DeviceMesh) -> None:
        self.model = model
        self.mesh = mesh
        self.count = mesh.size()
        self.rank = mesh.get_local_rank()
        self.kinds: dict[nn.Module, type[Here]] = {}
        self.places: dict[tuple[nn.Module, str], Placement] = {}
        self.sizes: dict[nn.Module, int] = {}
        self.heads: dict[nn.Module, tuple[str, ...]] = {}
        self.fused: dict[nn.Module, int] = {}

    def by_layers(self) -> None:
        """As the layers say.

        Raises:
            ValueError: there are some that cannot be divided, or not by so many; it names them.
        """
        known: set[nn.Module] = set()
        problems: list[str] = []
        for path, layer in self.model.named_modules():
            division: Division | None = getattr(layer, "division", None)
            if division is not None:
                problems += self._plan(path, layer, division)
                known |= {layer, *_children(layer, division.whole)}
                if isinstance(division, Whole):
                    known |= set(layer.modules())
        name = self.model.class_name
        if not self.kinds:
            raise ValueError(f"{name} has no tensor plan; use plan='fsdp'.")
        undivided = sorted(_undivided(self.model, known | self.kinds.keys()))
        if undivided:
            raise ValueError(
                f"{name} has no tensor plan; use plan='fsdp'. These layers cannot be divided: "
                f"{', '.join(undivided)}."
            )
        if problems:
            raise ValueError(
                f"{name} cannot be divided by {self.count}:\n  " + "\n  ".join(problems)
            )
        self._divide()
        for layer in self.model.modules():
            if isinstance(layer, Model) and layer.cache_shapes:
                layer.cache_shapes = [
                    replace(shape, num_heads=shape.num_heads // self.count)
                    for shape in layer.cache_shapes
                ]

    def by_names(self, plan: Mapping[str, Placement]) -> None:
        """By patterns of weights' names; the rest is whole.

        Raises:
            ValueError: a pattern without weights, or a placement that they cannot have.
        """
        names = [name for name, _ in self.model.named_parameters()]
        names += [k for k, b in self.model.named_buffers() if b.ndim > 1 and b.dtype in INTEGERS]
        for pattern, place in plan.items():
            found = [name for name in names if fnmatchcase(name, pattern)]
            if not found:
                raise ValueError(f"plan: {self.model.class_name} has no weight {pattern!r}.")
            if not isinstance(place, (Shard, Replicate)):
                raise ValueError(
                    f"plan: {pattern!r} must be Shard(axis) or Replicate(), not {place!r}."
                )
            for name in found:
                path, _, leaf = name.rpartition(".")
                layer = self.model.get_submodule(path)
                shape = tuple(getattr(layer, leaf).shape)
                if isinstance(place, Shard) and not -len(shape) <= place.dim < len(shape):
                    raise ValueError(f"plan: {name} {shape} has no axis {place.dim}.")
                self.kinds[layer] = Gathered
                axis = getattr(place, "dim", None)
                self.places[layer, leaf] = place if axis is None else Shard(axis % len(shape))
        self._divide()

    def _plan(self, path: str, layer: nn.Module, division: Division) -> Iterator[str]:
        """Note what becomes of a layer, and say what is wrong with that."""
        entry = Entry()
        for axis, names in enumerate((division.columns, division.rows)):
            for name in names:
                child = layer._modules.get(name)
                if child is None:
                    continue
                assert isinstance(child, Projection)
                self.kinds[child] = Row if axis else Column
                vars(child)["entry"] = entry if division.rows else Entry()
                pieces = division.fused.get(name, 1)
                try:
                    places = child.divided(axis, pieces * self.count)
                except ValueError as error:
                    yield f"{path}.{name} has {error}"
                    continue
                if pieces > 1 and places["weight"]:
                    yield f"{path}.{name} has {pieces} things in rows of packed integers"
                for leaf, at in places.items():
                    self.places[child, leaf] = Shard(at)
                    if pieces > 1:
                        self.places[child, leaf] = _StridedShard(at, split_factor=pieces)
                if isinstance(child, QuantizedDense):
                    self._plan_integers(child, axis, places)
        for name, count in division.fused.items():
            (child,) = _children(layer, (name,))
            self.fused[child] = count
            vars(child)["pieces"] = count
            size = _outputs(child) // count
            if size % self.count:
                yield f"{path}.{name} has {count} x {size} outputs"
        for child in _children(layer, division.shared):
            self.kinds[child] = Shared
        for child in _children(layer, division.across):
            if not isinstance(child, nn.Identity):
                self.kinds[child] = Across
                self.sizes[child] = _outputs(*_children(layer, division.columns[:1]))
        for name in division.tables:
            for child in _children(layer, (name,)):
                whole = ROWS if isinstance(child, Quantized) else ReversibleEmbedding.division
                yield from self._plan(f"{path}.{name}", child, whole)
        tensors = {**layer._buffers, **layer._parameters}
        weights = [name for name in division.weights if tensors.get(name) is not None]
        for name in weights:
            self.places[layer, name] = Shard(division.weights[name] % tensors[name].ndim)  # type: ignore[union-attr]
        if division.arguments:
            self.kinds[layer] = Cut
            vars(layer)["takes"] = tuple(inspect.signature(layer.forward).parameters)
        if isinstance(division, (Vocabulary, Experts)):
            many = isinstance(division, Vocabulary)
            self.kinds[layer] = Rows if many else Some
            self.sizes[layer] = size = len(tensors[weights[0]])  # type: ignore[arg-type]
            if many and not run(size, self.count - 1, self.count)[1]:
                yield f"{path} has {size} rows"
            if not many and size % self.count:
                yield f"{path} has {size} experts"
        self.heads[layer] = division.heads
        for name in division.heads:
            size = getattr(layer, name)
            if size % self.count:
                yield f"{path}.{name} is {size}"

    def _plan_integers(self, layer: QuantizedDense, axis: int, places: Mapping[str, int]) -> None:
        """Note what a quantized projection needs to know besides."""
        if isinstance(layer, PackedDense) and places["weight"] == 1:
            vars(layer)["first_input"] = run(layer.rows, self.rank, self.count)[0]
        if axis and layer.activations is not None:
            quantizer = SharedAbsMaxQuantizer(**vars(layer.activations), mesh=self.mesh)
            layer.activations = quantizer

    def _divide(self) -> None:
        for layer in list(self.model.modules()):
            kind = self.kinds.get(layer, Here)
            placed = (name for name in layer._buffers if (layer, name) in self.places)
            names = (*layer._parameters, *placed)
            for name, buffer in layer._buffers.items():
                if buffer is not None and name in names:
                    layer._buffers[name] = self._distributed(buffer, self.places[layer, name])
            for name, parameter in layer._parameters.items():
                if parameter is not None:
                    place = self.places.get((layer, name), Replicate())
                    whole = self._distributed(parameter.detach(), place)
                    layer._parameters[name] = nn.Parameter(whole, parameter.requires_grad)
            for name in self.heads.get(layer, ()):
                setattr(layer, name, getattr(layer, name) // self.count)
            size = self.sizes.get(layer)
            if size is not None:
                first, count = run(size, self.rank, self.count)
                vars(layer).update(first=first, count=count, size=size)
            if names or kind is not Here:
                vars(layer)["mesh"] = self.mesh
                layer.__class__ = _class(kind, type(layer), names)  # type: ignore[arg-type]

    def _distributed(self, tensor: torch.Tensor, place: Placement) -> torch.Tensor:
        local = tensor
        if isinstance(place, _StridedShard):
            axis, each = place.dim, local.chunk(int(place.split_factor), place.dim)
            local = torch.cat([part.chunk(self.count, axis)[self.rank] for part in each], axis)
        elif isinstance(place, Shard):
            local = cut(local, place.dim, self.mesh).contiguous()
        return DTensor.from_local(
            local, self.mesh, [place], run_check=False, shape=tensor.shape, stride=tensor.stride()
        )


def _children(layer: nn.Module, names: Iterable[str]) -> Iterator[nn.Module]:
    return (child for child in map(layer._modules.get, names) if child is not None)


def _outputs(projection: nn.Module) -> int:
    assert isinstance(projection, Projection)
    return projection.out_features


def _undivided(model: Model, known: set[nn.Module]) -> Iterator[str]:
    """Layers of blocks that hold matrices of which nothing is known."""
    blocks = [block for block in model.modules() if isinstance(block, model.block_classes)]
    inside = {module for block in blocks for module in block.modules()}
    for path, module in model.named_modules():
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        held = tensors if isinstance(module, Quantized) else module.parameters(recurse=False)
        large = any(one.ndim > 1 for one in held)
        if large and module in inside and module not in known:
            yield path
