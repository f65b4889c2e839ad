"""Whole tensors in one process, of a model that is sharded over several.

Before each tensor all processes tell each other which part they hold, or that they have failed, so
that none of them waits for one that does not come.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import distributed, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs

# Axes that a notice has room for.
MAX_AXES = 8
# Where a part begins, along each axis, and how long it is.
Part: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]


class Lost(OSError):
    """A process is gone, or has failed: its reason is the message."""


def is_sharded(tensor: torch.Tensor) -> TypeIs[DTensor]:
    """Whether a tensor is a handle, of which this process may hold a part."""
    return hasattr(tensor, "full_tensor")


def own_part(tensor: DTensor) -> Part:
    """Which part of a tensor this process holds."""
    held = tensor.to_local()
    if not held.numel():
        return (0,) * held.ndim, tuple(held.shape)
    (chunk,) = tensor.__create_chunk_list__()
    return tuple(chunk.offsets), tuple(chunk.sizes)


def cut(whole: torch.Tensor, part: Part) -> torch.Tensor:
    """A part of a tensor, as a view."""
    for axis, (begin, length) in enumerate(zip(*part)):
        whole = whole.narrow(axis, begin, length)
    return whole


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers that this process holds; changes to them are changes of the tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def is_in_pieces(tensor: DTensor) -> bool:
    """Whether what a process holds lies in several places, as rows of a query, a key and a value do
    that are one weight.
    """
    mesh, placements = tensor.device_mesh, tensor.placements
    place: Any
    for axis, place in enumerate(placements):
        # FSDP counts so the parts that tensor parallelism has left it.
        if hasattr(place, "split_factor"):
            inner = [i for i in range(axis + 1, mesh.ndim) if placements[i].is_shard(place.dim)]
            if place.split_factor != math.prod(mesh.size(i) for i in inner):
                return True
    return False


def local_part(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """What this process would hold of a tensor that is sharded as another one is. All processes ask
    for it.
    """
    if not is_sharded(like):
        return whole
    if not is_in_pieces(like):
        return cut(whole, own_part(like))
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements).to_local()


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor, in every process."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def sharded_as(held: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The tensor of which the processes hold these parts, as they do of another one."""
    if not is_sharded(like):
        return held
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        held, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )


def reshard(model: nn.Module) -> None:
    """Let go of parameters that FSDP has left whole, as of a root after a forward pass alone."""
    for module in model.modules():
        if is_fully_sharded(module):
            module.reshard()  # type: ignore[operator]


def is_fully_sharded(module: nn.Module) -> bool:
    """Whether `fully_shard` was applied to this very module."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


class Gathering:
    """The processes that hold the parts of some tensors.

    Args:
        tensors: all that may be gathered.

    Attributes:
        writes: whether this process is the one that gets whole tensors.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        meshes = dict.fromkeys(one.device_mesh for one in tensors if is_sharded(one))
        self.is_over = not meshes
        self.writes = True
        if self.is_over:
            return
        mesh = max(meshes, key=lambda mesh: mesh.size())
        self._device = mesh.device_type
        self._rank = distributed.get_rank()
        self._first = int(mesh.mesh.min())
        self.writes = self._rank == self._first
        all_of_them = mesh.size() == distributed.get_world_size()
        self._groups: list[Any] = [None] if all_of_them else mesh.get_all_groups()

    def whole(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The tensor, where this process writes. All processes must ask for the same ones.

        Raises:
            Lost: another process has failed.
        """
        if not is_sharded(tensor):
            return tensor
        if is_in_pieces(tensor):
            self.agree()
            with self._talking():
                everywhere = tensor.full_tensor()
            return everywhere if self.writes else None
        own = tensor.to_local().detach().contiguous()
        whole = own.new_empty(tensor.shape) if self.writes else None
        holders: dict[Part, int] = {}
        for rank, part in self._announce(own_part(tensor)).items():
            holders.setdefault(part, rank)  # the lowest, which of its own parts is the writer
        for part, rank in holders.items():
            if not math.prod(part[1]):
                continue
            if whole is not None and rank == self._rank:
                cut(whole, part).copy_(own)
            elif whole is not None:
                self._receive(cut(whole, part), rank)
            elif rank == self._rank:
                with self._talking():
                    distributed.send(_raw(own.to(self._device)), self._first)
        return whole

    def _receive(self, target: torch.Tensor, rank: int) -> None:
        is_fit = target.is_contiguous() and target.device.type == self._device
        received = target
        if not is_fit:
            received = torch.empty(target.shape, dtype=target.dtype, device=self._device)
        with self._talking():
            distributed.recv(_raw(received), rank)
        if not is_fit:
            target.copy_(received)

    @contextlib.contextmanager
    def drawing(self, device: torch.device) -> Iterator[None]:
        """Where random numbers on a device are, in all processes, those of the first one.

        A process whose own ones would have been others goes on with its own ones.
        """
        if self.is_over:
            yield
            return
        with contextlib.ExitStack() as stack:
            for kind in dict.fromkeys(("cpu", device.type)):
                stack.enter_context(self._drawing(device, kind))
            yield

    @contextlib.contextmanager
    def _drawing(self, device: torch.device, kind: str) -> Iterator[None]:
        generators: Any = torch if kind == "cpu" else torch.get_device_module(kind)
        which = () if kind == "cpu" else (device,)
        own = generators.get_rng_state(*which)
        first = own.to(self._device, copy=True)
        with self._talking():
            for group in self._groups:
                distributed.broadcast(first, group=group, group_src=0)
        generators.set_rng_state(first.cpu(), *which)
        try:
            yield
        finally:
            if not torch.equal(own, first.cpu()):
                generators.set_rng_state(own, *which)

    def agree(self) -> None:
        """Wait until all processes have come as far as this.

        Raises:
            Lost: another one has failed.
        """
        if not self.is_over:
            self._announce()

    def conclude(self, error: BaseException | None = None) -> None:
        """Tell the others that this process is done, or has failed.

        Raises:
            Lost: another one has failed, and this one has not.
        """
        if not self.is_over:
            self._announce(error=error)
            self.is_over = True

    def _announce(
        self, part: Part = ((), ()), error: BaseException | None = None
    ) -> dict[int, Part]:
        """Parts by rank."""
        sizes = [size for one in part for size in (*one, *[0] * (MAX_AXES - len(one)))]
        notice = [int(error is not None), self._rank, len(part[0]), *sizes]
        notices = torch.tensor([notice], device=self._device)
        with self._talking():
            for group in self._groups:
                parts = [
                    torch.empty_like(notices) for _ in range(distributed.get_world_size(group))
                ]
                distributed.all_gather(parts, notices, group)
                notices = torch.cat(parts)
            found = notices.tolist()
        if any(failed for failed, *_ in found):
            self._fail(error)
        return {
            rank: (tuple(sizes[:axes]), tuple(sizes[MAX_AXES : MAX_AXES + axes]))
            for _, rank, axes, *sizes in sorted(found)
        }

    def _fail(self, error: BaseException | None) -> None:
        """Exchange what has gone wrong.

        Raises:
            Lost: in processes that have no error of their own.
        """
        reasons: list[Any] = []
        if error is not None:
            reasons.append(f"process {self._rank} has failed: {type(error).__name__}: {error}")
        with self._talking():
            for group in self._groups:
                parts: list[Any] = [None] * distributed.get_world_size(group)
                distributed.all_gather_object(parts, reasons, group)
                reasons = [reason for part in parts for reason in part]
        self.is_over = True
        if error is None:
            raise Lost(f"Given up here, too: {'; '.join(reasons)}")

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        """Where a process that is gone is noticed."""
        try:
            yield
        except BaseException as error:
            self.is_over = True  # nobody can be told any more
            if isinstance(error, RuntimeError):
                raise Lost(f"A process is gone that holds a part of the model: {error}") from error
            raise


@contextlib.contextmanager
def gathering(tensors: Iterable[torch.Tensor]) -> Iterator[Gathering]:
    """Tensors of these are gathered within. If a process leaves it by an error, all do.

    Raises:
        Lost: another process has failed.
    """
    found = Gathering(tensors)
    try:
        yield found
    except BaseException as error:
        found.conclude(error)
        raise
    found.conclude()


def _raw(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a contiguous tensor; not every backend knows every type."""
    return tensor.reshape(-1).view(torch.uint8)
