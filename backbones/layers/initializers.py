"""Random initial values, as Keras draws them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.overrides import handle_torch_function, has_torch_function_unary

# Fills a tensor in place, given the layer's fan-in and fan-out.
Initializer: TypeAlias = Callable[[torch.Tensor, int, int], None]


def zeros(tensor: torch.Tensor, fan_in: int = 1, fan_out: int = 1) -> None:
    nn.init.zeros_(tensor)


def ones(tensor: torch.Tensor, fan_in: int = 1, fan_out: int = 1) -> None:
    nn.init.ones_(tensor)


def identity(tensor: torch.Tensor, fan_in: int = 1, fan_out: int = 1) -> None:
    """Of a square matrix."""
    with torch.no_grad():
        tensor.zero_().fill_diagonal_(1)


def uniform(tensor: torch.Tensor, fan_in: int = 1, fan_out: int = 1) -> None:
    """±0.05, Keras's default for embeddings."""
    nn.init.uniform_(tensor, -0.05, 0.05)


# Functions and not closures, so that layers can be pickled.


def _normal(tensor: torch.Tensor, fan_in: int = 1, fan_out: int = 1, *, stddev: float) -> None:
    if not tensor.is_meta:  # drawing nothing would import all of torch's compiler
        nn.init.normal_(tensor, 0.0, stddev)


def _truncated(
    tensor: torch.Tensor, fan_in: int = 1, fan_out: int = 1, *, stddev: float, mean: float = 0.0
) -> None:
    if has_torch_function_unary(tensor):  # what it does depends on what it draws
        given: dict[str, Any] = {"stddev": stddev, "mean": mean}
        handle_torch_function(_truncated, (tensor,), tensor, **given)
    elif stddev == 0:
        nn.init.constant_(tensor, mean)
    else:
        nn.init.trunc_normal_(tensor, mean, stddev, mean - 2 * stddev, mean + 2 * stddev)


def _scaled(
    tensor: torch.Tensor, fan_in: int, fan_out: int, *, scale: float, mode: str, distribution: str
) -> None:
    fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    variance = scale / max(1.0, fans[mode])
    if distribution == "truncated_normal":
        _truncated(tensor, stddev=math.sqrt(variance) / 0.8796256610342398)
    elif distribution == "untruncated_normal":
        _normal(tensor, stddev=math.sqrt(variance))
    else:
        limit = math.sqrt(3 * variance)
        nn.init.uniform_(tensor, -limit, limit)


def _constant(tensor: torch.Tensor, fan_in: int = 1, fan_out: int = 1, *, value: float) -> None:
    nn.init.constant_(tensor, value)


def constant(value: float) -> Initializer:
    return functools.partial(_constant, value=value)


def random_normal(stddev: float) -> Initializer:
    return functools.partial(_normal, stddev=stddev)


def truncated_normal(stddev: float, mean: float = 0.0) -> Initializer:
    """A normal cut at two standard deviations (so of deviation 0.88 × `stddev`)."""
    return functools.partial(_truncated, stddev=stddev, mean=mean)


def variance_scaling(scale: float, mode: str, distribution: str) -> Initializer:
    """Variance `scale / n`, n being `fan_in`, `fan_out` or (`fan_avg`) their mean."""
    return functools.partial(_scaled, scale=scale, mode=mode, distribution=distribution)


glorot_uniform = variance_scaling(1.0, "fan_avg", "uniform")


def keras_fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Fan-in and fan-out by Keras's rule: the last two axes times all before them."""
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field
