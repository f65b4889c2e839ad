"""Running a model that may be in training as if it were not, without touching it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..backbones.layers.routing import jitter

T = TypeVar("T")
R = TypeVar("R")
# What gives back its first argument when a model is not in training.
NOISE = {
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    jitter,
}


class WithoutNoise(TorchFunctionMode):
    """Within it, and in this thread only, nothing is dropped, in whatever mode modules are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in NOISE:
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention:
            kwargs = {**kwargs, "dropout_p": 0.0}
        return func(*args, **kwargs)


@contextmanager
def many_compilations() -> Iterator[None]:
    """Within it torch compiles a function for more than eight models and sizes."""
    config = torch._dynamo.config
    names = ("recompile_limit", "accumulated_recompile_limit")
    if not hasattr(config, names[0]):  # before torch 2.7
        names = ("cache_size_limit", "accumulated_cache_size_limit")
    with config.patch(dict.fromkeys(names, 1 << 16)):
        yield


def without_training(
    models: Sequence[nn.Module], steps: Generator[T, None, R]
) -> Generator[T, None, R]:
    """The same steps without gradients and noise; who takes what they yield is outside of this."""
    noisy = any(module.training for model in models for module in model.modules())
    while True:
        with torch.no_grad(), WithoutNoise() if noisy else nullcontext():
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
        yield step
