"""Activations by Keras name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch.nn import functional as F

from .layer import Layer

ActivationFunction: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
# What a constructor takes: a name, Keras's serialized function, or one of the functions below.
ActivationLike: TypeAlias = str | Mapping[str, Any] | ActivationFunction | None


def linear(x: torch.Tensor) -> torch.Tensor:
    return x


def gelu(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x)


def gelu_approximate(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


def leaky_relu(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.2)


def softmax(x: torch.Tensor) -> torch.Tensor:
    return x.softmax(-1)


def log_softmax(x: torch.Tensor) -> torch.Tensor:
    return x.log_softmax(-1)


def squareplus(x: torch.Tensor) -> torch.Tensor:
    return (x + (x.square() + 4).sqrt()) / 2


def sparse_plus(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 1, (x.clamp(-1, 1) + 1).square() / 4, x)


def sparse_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return (x.clamp(-1, 1) + 1) / 2


ACTIVATIONS: dict[str, ActivationFunction] = {
    "linear": linear,
    "gelu": gelu,
    "keras_hub>gelu_approximate": gelu_approximate,
    "keras_hub>quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
    "hard_silu": F.hardswish,
    "leaky_relu": leaky_relu,
    "elu": F.elu,
    "softplus": F.softplus,
    "mish": F.mish,
    "celu": F.celu,
    "selu": F.selu,
    "softsign": F.softsign,
    "squareplus": squareplus,
    "exponential": torch.exp,
    "hard_tanh": F.hardtanh,
    "tanh_shrink": F.tanhshrink,
    "hard_shrink": F.hardshrink,
    "soft_shrink": F.softshrink,
    "log_sigmoid": F.logsigmoid,
    "sparse_plus": sparse_plus,
    "sparse_sigmoid": sparse_sigmoid,
    "softmax": softmax,
    "log_softmax": log_softmax,
}
# Those of a vector, which has to be the last axis.
OF_VECTORS = ("softmax", "log_softmax")
# Those that can write over their input. While gradients are recorded only the first does, whose
# gradient follows from its output.
IN_PLACE: dict[str, ActivationFunction] = {
    "relu": torch.relu_,
    "relu6": partial(F.relu6, inplace=True),
    "silu": partial(F.silu, inplace=True),
    "hard_silu": partial(F.hardswish, inplace=True),
}
_SYNONYMS = {
    "swish": "silu",
    "hard_swish": "hard_silu",
    "gelu_approximate": "keras_hub>gelu_approximate",
    "quick_gelu": "keras_hub>quick_gelu",
    "keras_nlp>gelu_approximate": "keras_hub>gelu_approximate",
    "keras_nlp>quick_gelu": "keras_hub>quick_gelu",
}


def activation_name(activation: ActivationLike) -> str:
    """The registered name of an activation however it is spelled.

    Raises:
        ValueError: no such activation.
    """
    if activation is None:
        return "linear"
    if isinstance(activation, Mapping):
        activation = activation.get("config")
    if isinstance(activation, str):
        name = _SYNONYMS.get(activation, activation)
        if name in ACTIVATIONS:
            return name
    for name, function in ACTIVATIONS.items():
        if function is activation:
            return name
    raise ValueError(f"Unknown activation {activation!r}. Known: {', '.join(ACTIVATIONS)}.")


class Activation(Layer):
    """An activation of its own, so that it is seen where the layers are printed."""

    def __init__(self, activation: ActivationLike) -> None:
        super().__init__()
        self.name = activation_name(activation)
        self.function = ACTIVATIONS[self.name]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


class MapActivation(Activation):
    """An activation of maps `[batch, channels, height, width]`.

    Raises:
        ValueError: one of vectors.
    """

    def __init__(self, activation: ActivationLike) -> None:
        super().__init__(activation)
        if self.name in OF_VECTORS:
            raise ValueError(f"Maps have no activation {self.name!r}, which is one of vectors.")


class ActivationInPlace(MapActivation):
    """An activation of what nothing else reads, such as a batch norm's output, in the same memory
    where possible.
    """

    def __init__(self, activation: ActivationLike) -> None:
        super().__init__(activation)
        self.without_gradients = IN_PLACE.get(self.name, self.function)
        if self.name == "relu":
            self.function = self.without_gradients

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        function = self.function if torch.is_grad_enabled() else self.without_gradients
        return function(x)


def serialize_activation(activation: ActivationLike) -> str | dict[str, Any]:
    """As Keras writes it: a plain name, or an object for functions that KerasHub registers."""
    name = activation_name(activation)
    if ">" not in name:
        return name
    return {
        "module": "builtins",
        "class_name": "function",
        "config": name,
        "registered_name": "function",
    }
