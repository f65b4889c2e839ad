"""Parts of tensors, as the processes that share a model hold them: where a file has their numbers.

How a file arranges a tensor is said by functions of whole tensors. Here they are applied to
tensors without data, and what they do to the strides tells which bytes a part is made of.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..backbones._model import Model
from ..backbones.layers.layer import Layer
from ..backbones.layers.quantized import Quantized
from ..backbones.layers.vision import PositionGrid
from .building import ModelType, blank_resized, check_resized, place, resampling
from .gathering import full, is_in_pieces, is_sharded, local, own_part
from .weights import weights_of

# Of each axis the first index and the one behind the last.
Box: TypeAlias = Sequence[tuple[int, int]]
Function: TypeAlias = Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Part:
    """What this process holds of a tensor: a box of it, in memory of any strides."""

    box: Box
    target: torch.Tensor


class Sharing(Protocol):
    """How several processes share a model."""

    def share(self, model: Model, device: torch.device) -> Model:
        """Leave of each weight of a model without data what this process holds, in new memory.

        Returns:
            The model, or another one that is shared in its place.
        """

    def parts(self, module: nn.Module, name: str) -> list[Part]:
        """What this process holds of a module's weight."""

    def complete(self, model: Model) -> None:
        """What layers compute of their weights, when these have been read."""


class Held:
    """A model that is shared already, and a blank one in place of which it is filled.

    Raises:
        ValueError: the blank one has weights that the model has not.
    """

    def __init__(self, model: Model, blank: Model) -> None:
        self.model = model
        self._weights = weights_of(model)
        self._names = {module: f"{path}." for path, module in blank.named_modules()}
        self._names[blank] = ""

    def share(self, model: Model, device: torch.device) -> Model:
        missing = ", ".join(name for name in model.state_dict() if name not in self._weights)
        if missing:
            raise ValueError(
                f"The file has weights of parts that this {model.class_name}, which several "
                f"processes share, does not have: {missing}."
            )
        return self.model

    def parts(self, module: nn.Module, name: str) -> list[Part]:
        return parts_of(self._weights[self._names[module] + name].tensor)

    def complete(self, model: Model) -> None:
        complete(self.model)


class Resizing(Generic[ModelType]):
    """A model for images of another size, and the one of which it gets the weights.

    Tables of positions are read whole by every process.

    Args:
        sharing: how the model for images of another size is shared.
        arguments: as of `building.resized`.
    """

    def __init__(self, sharing: Sharing, model: ModelType, arguments: Mapping[str, Any]) -> None:
        self._sharing = sharing
        self._model = model
        self._arguments = arguments

    def share(self, model: Model, device: torch.device) -> Model:
        self.resized = blank_resized(self._model, self._arguments)
        self._tables = resampling(self._model, self.resized)
        expected = self.resized.state_dict(keep_vars=True)
        self._whole = set(self._tables)
        for name, tensor in self._model.state_dict(keep_vars=True).items():
            owner, _, leaf = name.rpartition(".")
            module = self._model.get_submodule(owner)
            if name in self._tables or isinstance(module, PositionGrid):
                self._whole.add(name)
                place(module, leaf, torch.empty_like(tensor, device="cpu"))
            if name not in self._tables:
                check_resized(self._arguments, name, tensor, expected[name])
        self._names = {module: path for path, module in self._model.named_modules()}
        return self._sharing.share(self.resized, device)

    def parts(self, module: nn.Module, name: str) -> list[Part]:
        path = self._names[module]
        if f"{path}.{name}" in self._whole:
            return parts_of(getattr(module, name).detach())
        return self._sharing.parts(self.resized.get_submodule(path), name)

    def complete(self, model: Model) -> None:
        for module in self._model.modules():
            if isinstance(module, PositionGrid):
                module.loaded()
        complete(self.resized, but=PositionGrid)

    @torch.no_grad()
    def finish(self) -> ModelType:
        """Resample the tables.

        Raises:
            ValueError: the arguments ask for other channels, too.
        """
        for name in self._whole:
            owner, _, leaf = name.rpartition(".")
            module = self.resized.get_submodule(owner)
            old = getattr(self._model.get_submodule(owner), leaf)
            value = self._tables[name]() if name in self._tables else old
            check_resized(self._arguments, name, value, getattr(module, leaf))
            for part in self._sharing.parts(module, leaf):
                part.target.copy_(boxed(value, part.box))
        return self.resized


def parts_of(tensor: torch.Tensor) -> list[Part]:
    """What this process holds of a tensor."""
    held = local(tensor).detach()
    if not is_sharded(tensor):
        return [Part([(0, size) for size in tensor.shape], held)]
    if not is_in_pieces(tensor):
        return [Part([(start, start + size) for start, size in zip(*own_part(tensor))], held)]
    # Several things behind each other, a part of each.
    place: Any
    ((dim, place),) = ((i, p) for i, p in enumerate(tensor.placements) if not p.is_replicate())
    axis, count = place.dim, place.split_factor
    whole, size = tensor.shape[axis] // count, held.shape[axis] // count
    first = tensor.device_mesh.get_local_rank(dim) * size
    box = [(0, width) for width in tensor.shape]
    return [
        Part([*box[:axis], (i * whole + first, i * whole + first + size), *box[axis + 1 :]], part)
        for i, part in enumerate(held.chunk(count, axis))
    ]


class Readable(Protocol):
    """A tensor in a file, in row-major order."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self) -> torch.Tensor:
        """All of it."""

    def read_view(self, view: torch.Tensor, target: torch.Tensor) -> None:
        """Fill a tensor with those numbers that a view of it, without data, shows."""


@torch.no_grad()
def read_parts(
    sharing: Sharing,
    stored: Sequence[Readable],
    function: Function,
    weights: Sequence[tuple[nn.Module, str]],
) -> None:
    """Read what this process holds of some weights, and no more where that can be told.

    Args:
        function: of the stored tensors; gives the weights.
    """
    arranged = Arranged([one.shape for one in stored], function)
    whole: list[torch.Tensor] = []
    for index, (module, name) in enumerate(weights):
        for part in sharing.parts(module, name):
            elsewhere = part.target.device.type != "cpu"
            memory = torch.empty_like(part.target, device="cpu") if elsewhere else part.target
            pieces = arranged.pieces(index, Part(part.box, memory))
            if pieces is None:
                whole = whole or list(function([one.read() for one in stored]))
                memory.copy_(boxed(whole[index], part.box))
            for piece in pieces or ():
                stored[piece.number].read_view(piece.view, piece.target)
            if elsewhere:
                part.target.copy_(memory)


@torch.no_grad()
def complete(model: Model, but: type[nn.Module] | tuple[()] = ()) -> None:
    """As `building.complete`: what layers compute of their weights, they compute of whole ones."""
    for module in model.modules():
        if isinstance(module, but):
            continue
        if isinstance(module, Quantized):
            module.loaded()  # it looks at what is whole everywhere
        elif isinstance(module, Layer) and type(module).loaded is not Layer.loaded:
            twin = copy.copy(module)
            twin.__dict__ = dict(module.__dict__)
            for kind in ("_parameters", "_buffers"):
                twin.__dict__[kind] = {k: _whole(t) for k, t in getattr(module, kind).items()}
            twin.loaded()
            state = ("_parameters", "_buffers")
            vars(module).update({k: v for k, v in vars(twin).items() if k not in state})
            for name, value in (*twin._parameters.items(), *twin._buffers.items()):
                if value is not None:
                    for part in parts_of(getattr(module, name)):
                        part.target.copy_(boxed(value, part.box))


def _whole(tensor: Any) -> Any:
    return None if tensor is None else full(tensor)


class Arranged:
    """What a function makes of stored tensors, followed without data.

    Args:
        shapes: of the stored tensors.
        function: of all of them.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], function: Function) -> None:
        stored = [torch.empty(tuple(shape), device="meta") for shape in shapes]
        self._numbers = {_memory(tensor): i for i, tensor in enumerate(stored)}
        self._following = _Following()
        self._stored = stored
        try:
            with self._following:
                self.results: Sequence[torch.Tensor | None] = function(stored)
        except (RuntimeError, NotImplementedError, ValueError, TypeError):  # it looks at data
            self.results = ()

    def pieces(self, index: int, part: Part) -> list[Piece] | None:
        """Where the numbers of a part of a result are; `None` if that cannot be told."""
        result = self.results[index] if index < len(self.results) else None
        try:
            return None if result is None else list(self._find(result, part.box, part.target))
        except LookupError:
            return None

    def _find(self, made: torch.Tensor, box: Box, target: torch.Tensor) -> Iterator[Piece]:
        if any(start >= stop for start, stop in box):
            return
        memory = _memory(made)
        if memory in self._numbers:
            yield Piece(self._numbers[memory], boxed(made, box), target)
            return
        how, before = self._following.made[memory]
        if made.storage_offset() or not made.is_contiguous():
            raise LookupError
        if isinstance(how, tuple):
            (base,) = before
            for inner, view in _split(how, base.shape, box, target):
                yield from self._find(base, inner, view)
            return
        begin = 0
        for one in before:
            end = begin + one.shape[how]
            start, stop = (min(max(at, begin), end) for at in box[how])
            if start < stop:
                inner = [*box]
                inner[how] = (start - begin, stop - begin)
                view = target.narrow(how, start - box[how][0], stop - start)
                yield from self._find(one, inner, view)
            begin = end


@dataclass(frozen=True)
class Piece:
    """Numbers of one stored tensor.

    Attributes:
        number: of the stored tensor.
        view: of it, whose shape is the target's; its strides say where the numbers are.
    """

    number: int
    view: torch.Tensor
    target: torch.Tensor


class _Following(TorchFunctionMode):
    """Notes what is copied: from which tensors, and along which axis or into which shape."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[int | tuple[int, ...], list[torch.Tensor]]] = {}
        self._kept: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if func in (torch.cat, torch.stack):
            axis = kwargs.get("dim", args[1] if len(args) > 1 else 0) % made.ndim
            tensors = list(args[0])
            if func is torch.stack:
                tensors = [tensor.unsqueeze(axis) for tensor in tensors]
            self._note(made, axis, tensors)
        elif func in COPIES and _memory(made) != _memory(args[0]):
            self._note(made, tuple(made.shape), [args[0]])
        return made

    def _note(
        self, made: torch.Tensor, how: int | tuple[int, ...], before: list[torch.Tensor]
    ) -> None:
        self._kept.append(made)  # or another tensor gets its memory
        self.made[_memory(made)] = how, before


COPIES = (
    *(torch.Tensor.reshape, torch.Tensor.flatten, torch.Tensor.contiguous, torch.Tensor.clone),
    *(torch.reshape, torch.flatten, torch.clone),
)


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def boxed(tensor: torch.Tensor, box: Box) -> torch.Tensor:
    """A view of what is in a box."""
    for axis, (start, stop) in enumerate(box):
        tensor = tensor.narrow(axis, start, stop - start)
    return tensor


def _split(
    shape: Sequence[int], before: Sequence[int], box: Box, target: torch.Tensor
) -> Iterator[tuple[Box, torch.Tensor]]:
    """A box of a tensor of this shape as boxes of the one that it was before some of its axes were
    made one, and what of the target belongs to each.

    Raises:
        LookupError: axes were not only joined.
    """
    groups = _joined(shape, before)
    runs = [list(_runs(sizes, *ends)) for sizes, ends in zip(groups, box)]
    for chosen in itertools.product(*runs):
        view = target
        for axis, (run, (start, _)) in enumerate(zip(chosen, box)):
            begin, ranges = run
            view = view.narrow(axis, begin - start, math.prod(b - a for a, b in ranges))
        inner = [ends for _, ranges in chosen for ends in ranges]
        yield inner, view.reshape([stop - start for start, stop in inner])


def _joined(shape: Sequence[int], before: Sequence[int]) -> list[list[int]]:
    """The axes that each axis was made of."""
    rest = list(before)
    groups = []
    for size in shape:
        group: list[int] = []
        while rest and (math.prod(group) < size or (math.prod(group) == size and rest[0] == 1)):
            group.append(rest.pop(0))
        if math.prod(group) != size:
            raise LookupError
        groups.append(group)
    if rest:
        raise LookupError
    return groups


def _runs(
    sizes: Sequence[int], start: int, stop: int
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """A range of an axis that was made of axes of these sizes, as boxes of those, each with the
    place where it begins.
    """
    if not sizes:
        yield start, []
        return
    inner = math.prod(sizes[1:])
    while start < stop:
        row, within = divmod(start, inner)
        whole = (stop - start) // inner
        if not within and whole:
            ends = (row, row + whole)
            yield start, [ends, *((0, size) for size in sizes[1:])]
            start += whole * inner
            continue
        end = min(stop, (row + 1) * inner)
        for begin, ranges in _runs(sizes[1:], within, end - row * inner):
            yield row * inner + begin, [(row, row + 1), *ranges]
        start = end
