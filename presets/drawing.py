"""Random initial values of models that several processes share.

What a constructor does to weights is noted first, with weights that have no memory. Then every
process does it, one weight after the other, as one process alone would, and keeps its parts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..backbones._model import Model
from ..backbones.layers.initializers import _truncated
from ..backbones.layers.quantized import Quantized
from .building import ModelType, construct, sized
from .gathering import gathering
from .parts import Sharing, boxed
from .request import Request

META = torch.device("meta")


@dataclass(eq=False)
class Call:
    """Of a function of PyTorch.

    Attributes:
        results: tensors without memory.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: Sequence[torch.Tensor]
    is_random: bool


class Notes(TorchDispatchMode):
    """Notes what is done to tensors that would be made on the meta device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        from torch._subclasses.fake_tensor import FakeTensorMode

        self._fake = FakeTensorMode()
        self.calls: list[Call] = []
        self._functions = _Functions(self.calls)

    def __enter__(self) -> Notes:
        self._functions.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._functions.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [one for one in tree_leaves((args, kwargs)) if _is_blank(one)]
        makes = kwargs.get("device") == META
        if not given and not makes:
            return func(*args, **kwargs)
        kwargs = {**kwargs, "device": torch.device("cpu")} if makes else kwargs
        is_random = torch.Tag.nondeterministic_seeded in func.tags
        if is_random and given and func._schema.is_mutable:
            result = args[0]
        else:
            with self._fake:
                result = func(*args, **kwargs)
        results = [one for one in tree_leaves(result) if _is_blank(one)]
        if results and not func.is_view:
            self.calls.append(Call(func, args, {**kwargs}, results, is_random))
        return result


class _Functions(TorchFunctionMode):
    """What is not seen at that level: values that are known, and what looks at data."""

    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self._calls = calls

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") == META:
            kwargs = {**kwargs, "device": "cpu"}
        if func is _truncated and _is_blank(args[0]):
            self._calls.append(Call(func, args, kwargs, args[:1], is_random=True))
            return None
        return func(*args, **kwargs)


def unread(
    cls: type[ModelType], arguments: Mapping[str, Any], sizes: Mapping[str, Any], request: Request
) -> ModelType | None:
    """The model if its weights are drawn and not read; what cannot be built is refused in any case,
    before anything is read.

    Args:
        sizes: of images, as of `building.sized`.

    Raises:
        ValueError: as `drawn`.
    """
    wanted = sized(cls, arguments, sizes)
    if request.load_weights:
        construct(cls, wanted, "meta")
        return None
    if request.sharing is None:
        return construct(cls, wanted, request.device).eval()
    return drawn(cls, wanted, request.device, request.sharing).eval()


def drawn(
    cls: type[ModelType], arguments: Mapping[str, Any], device: torch.device, sharing: Sharing
) -> ModelType:
    """A model with the initial weights that one process would draw, shared with others.

    Raises:
        ValueError: no model can be built so, or a quantized one.
    """
    model = construct(cls, arguments, "meta")
    if any(isinstance(module, Quantized) for module in model.modules()):
        raise ValueError(
            f"A quantized {cls.__name__} over a device_mesh cannot be random: load_weights=False "
            "is for weights in floating point."
        )
    with Notes() as notes:
        blank = construct(cls, arguments, "meta")
    shared = sharing.share(model, device)
    draw(notes, dict(_tensors(blank)), model, shared, device, sharing)
    return model


def draw(
    notes: Notes,
    tensors: Mapping[str, torch.Tensor],
    model: Model,
    shared: Model,
    device: torch.device,
    sharing: Sharing,
) -> None:
    """Give weights of a model what has been noted of tensors of these names.

    All processes get the numbers of the first one's generator.

    Args:
        shared: what `share` has made of the model.
    """
    places = {}
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        places[model.get_submodule(owner), leaf] = tensor
    with gathering(shared.parameters()) as processes, processes.drawing(device):
        Drawing(notes.calls, device).fill(places, sharing)


def _tensors(model: Model) -> Iterator[tuple[str, torch.Tensor]]:
    """All parameters and buffers, those that have several names under each of them."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


class Drawing:
    """What has been noted, done again on a device.

    Args:
        calls: as of `Notes`.
        device: whose generator gives random numbers.
    """

    def __init__(self, calls: Sequence[Call], device: torch.device) -> None:
        self._calls = calls
        self._device = device
        self._done: set[int] = set()
        self._random = [i for i, call in enumerate(calls) if call.is_random]
        self._writers: dict[int, list[int]] = defaultdict(list)
        self._users: dict[int, set[int]] = defaultdict(set)
        for i, call in enumerate(calls):
            for tensor in call.results:
                self._writers[_memory(tensor)].append(i)
            for tensor in self._given(call):
                self._users[_memory(tensor)].add(i)
        self._real: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def fill(self, weights: Mapping[tuple[nn.Module, str], torch.Tensor], sharing: Sharing) -> None:
        """Give each weight this process's parts of what a tensor without memory stands for."""
        left: dict[int, list[tuple[nn.Module, str, torch.Tensor]]] = defaultdict(list)
        for (module, name), tensor in weights.items():
            left[_memory(tensor)].append((module, name, tensor))
        for memory in sorted(left, key=self._first):
            for i in self._writers[memory]:
                self._do(i)
            for module, name, tensor in left.pop(memory):
                for part in sharing.parts(module, name):
                    part.target.copy_(boxed(self._value(tensor), part.box))
            for one in list(self._real):  # what nothing needs any more
                if one not in left and self._done.issuperset(self._users[one]):
                    del self._real[one]

    def _first(self, memory: int) -> int:
        """By when a weight is drawn, so that few have to be kept."""
        return min((self._begin(i) for i in self._writers[memory]), default=-1)

    def _begin(self, number: int) -> int:
        before = [self._begin(i) for i in self._before(number)]
        return min((*before, number))

    def _before(self, number: int) -> list[int]:
        """The calls that made what a call is given."""
        given = self._given(self._calls[number])
        return sorted(i for one in given for i in self._writers[_memory(one)] if i < number)

    def _do(self, number: int) -> None:
        if number in self._done:
            return
        call = self._calls[number]
        for i in self._before(number):
            self._do(i)
        if call.is_random:  # in order
            for i in self._random:
                if i >= number:
                    break
                self._do(i)
        args, kwargs = tree_map(self._value, (call.args, call.kwargs))
        if "device" in kwargs:
            kwargs["device"] = self._device
        results = [one for one in tree_leaves(call.func(*args, **kwargs)) if _is_tensor(one)]
        for blank, made in zip(call.results, results):
            self._real.setdefault(_memory(blank), made)
        self._done.add(number)

    def _given(self, call: Call) -> list[torch.Tensor]:
        return [one for one in tree_leaves((call.args, call.kwargs)) if _is_blank(one)]

    def _value(self, tensor: Any) -> Any:
        if not _is_blank(tensor):
            return tensor
        made = self._real[_memory(tensor)]
        return made.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _is_blank(value: Any) -> bool:
    return _is_tensor(value) and hasattr(value, "fake_mode")


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
