"""What blocks give, kept on the way through a model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode


class Enough(Exception):
    """The last block that is watched has been called."""


class Watch:
    """Keeps what some blocks give while a model runs.

    Args:
        stacks: whose blocks are counted, in the order of their calls.
        wanted: numbers of the blocks.
        stops: whether `Enough` is raised when the last one has been called.

    Attributes:
        found: number of a block → what it gives, of several things the first.
    """

    def __init__(self, stacks: Sequence[nn.Module], wanted: Collection[int], stops: bool) -> None:
        self.stacks = stacks
        self.wanted = wanted
        self.last = max(wanted) if stops else None
        self.called = 0
        self.found: dict[int, torch.Tensor] = {}

    def counts(self, stack: nn.Module) -> bool:
        return any(stack is one for one in self.stacks)

    def watched(self, block: Callable[..., Any]) -> Callable[..., Any]:
        return partial(self.call, block)

    def call(self, block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outputs = block(*args, **kwargs)
        number = self.called
        self.called += 1
        if number in self.wanted:
            self.found[number] = outputs[0] if isinstance(outputs, tuple) else outputs
        if number == self.last:
            raise Enough
        return outputs

    def run(self, forward: Callable[..., Any], **inputs: Any) -> Any:
        """What `forward` returns, or `None` if it has been stopped."""
        outer, _thread.watch = _thread.watch, self
        entered = _modules_being_exported()
        depth = len(entered)
        try:
            return forward(**inputs)
        except Enough:
            while len(entered) > depth:
                entered.popitem()
            return None
        finally:
            _thread.watch = outer


def _modules_being_exported() -> dict[str, Any]:
    """The modules that `torch.export` takes itself to be in; it does not see that they are left."""
    if torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling():
        mode = get_proxy_mode()
        if mode is not None:
            return mode.tracer.module_stack
    return {}


class _Thread(threading.local):
    def __init__(self) -> None:  # compilers look whether it is there
        self.watch: Watch | None = None


_thread = _Thread()


def watch_of(stack: nn.Module) -> Watch | None:
    """What watches the blocks of a stack in this thread."""
    watch = _thread.watch
    return watch if watch is not None and watch.counts(stack) else None
