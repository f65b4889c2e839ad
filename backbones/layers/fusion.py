"""Folding batch norms into the convolutions before them, for inference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .convolution import BatchNormalization, Convolution


class Readers(TorchDispatchMode):
    """Counts how often each tensor is read by an operation.

    It keeps them all, so that no address is used twice: run it on the meta device.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: Counter[int] = Counter()
        self.kept: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        self.count.update(map(id, read))
        self.kept += read
        return func(*args, **kwargs)


@torch.no_grad()
def find_pairs(model: nn.Module, runs: Sequence[Callable[[], Any]]) -> dict[str, str]:
    """Paths of norms → of the convolutions whose outputs are all they read, and they alone.

    Args:
        runs: calls of the model, which is on the meta device.
    """
    outputs: dict[int, tuple[str, torch.Tensor]] = {}
    fed: dict[str, set[str | None]] = {}  # norm → convolutions
    read: dict[str, set[str | None]] = {}  # convolution → norms
    taken: list[tuple[str, torch.Tensor]] = []

    def made(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            outputs[id(output)] = (path, output)

        return hook

    def used(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            taken.append((path, args[0]))

        return hook

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if isinstance(module, Convolution):
                hooks.enter_context(_removed(module.register_forward_hook(made(path))))
            elif isinstance(module, BatchNormalization):
                hooks.enter_context(_removed(module.register_forward_pre_hook(used(path))))
        with Readers() as readers:
            results = [run() for run in runs]
    norms = {}
    for path, x in taken:
        norms[id(x)] = path
        fed.setdefault(path, set()).add(outputs[id(x)][0] if id(x) in outputs else None)
    given = {id(x) for x in tree_leaves(results)}
    for address, (path, _) in outputs.items():
        alone = readers.count[address] == 1 and address not in given
        read.setdefault(path, set()).add(norms.get(address) if alone else None)
    return {
        norm: conv
        for norm, convs in fed.items()
        for conv in convs
        if conv is not None and convs == {conv} and read[conv] == {norm}
    }


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def fold(conv: Convolution, norm: BatchNormalization) -> None:
    """Make a convolution compute what it and the norm behind it did, in `eval()` mode."""
    exact = torch.promote_types(conv.weight.dtype, torch.float32)
    scale = norm.weight.to(exact) * (norm.running_var.to(exact) + norm.eps).rsqrt()
    shift = norm.bias.to(exact) - norm.running_mean.to(exact) * scale
    if conv.bias is not None:
        shift += conv.bias.to(exact) * scale
    axis = 1 if conv.transposed else 0
    shape = [-1 if i == axis else 1 for i in range(conv.weight.ndim)]
    weight = (conv.weight.to(exact) * scale.view(shape)).to(conv.weight.dtype)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)


def fold_norms(model: nn.Module, blank: nn.Module, runs: Sequence[Callable[[], Any]]) -> None:
    """Fold norms into convolutions wherever that changes nothing.

    Args:
        blank: the same model on the meta device.
        runs: calls of it.
    """
    owners = Counter(id(p) for m in model.modules() for p in m._parameters.values())
    for norm_path, conv_path in find_pairs(blank, runs).items():
        norm, conv = model.get_submodule(norm_path), model.get_submodule(conv_path)
        assert isinstance(norm, BatchNormalization)
        assert isinstance(conv, Convolution)
        if owners[id(conv.weight)] == 1 and not hasattr(conv, "parametrizations"):
            fold(conv, norm)
            model.set_submodule(norm_path, nn.Identity())
