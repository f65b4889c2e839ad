"""Layers with a low-rank adapter (Hu et al., 2021, arXiv:2106.09685).

An adapted layer takes the place of the plain one with the same weights under the same names, and
adds `lora_kernel_a` and `lora_kernel_b` in float32, shaped as in Keras: the kernel's shape with
the rank for its last axis, and rank × last axis.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from ..backbones.layers.convolution import Conv1D, Conv2D, Conv3D, Convolution
from ..backbones.layers.core import Dense, Embedding, Projection, ReversibleEmbedding
from ..backbones.layers.initializers import keras_fans, variance_scaling
from ..backbones.layers.quantized import QuantizedDense, QuantizedEmbedding

_he_uniform = variance_scaling(2.0, "fan_in", "uniform")
AdapterType = TypeVar("AdapterType", bound="Adapter")


class Adapter(nn.Module):
    """What all adapted layers share.

    Attributes:
        scale: `lora_alpha / rank`, a factor of the adapter's output.
        merged: whether the weight includes the adapter, which then is not computed.
    """

    weight: torch.Tensor
    lora_kernel_a: torch.Tensor
    lora_kernel_b: torch.Tensor
    wrapped_class: type[nn.Module]
    rank: int
    scale: float
    merged: bool

    @classmethod
    def wrap(cls: type[AdapterType], layer: Any, rank: int, scale: float) -> AdapterType:
        """An adapted layer that shares the parameters of `layer`, which should not be used on."""
        adapted = cls.__new__(cls)
        adapted.__dict__.update(layer.__dict__)
        adapted.wrapped_class = type(layer)
        adapted.rank, adapted.scale, adapted.merged = rank, scale, False
        *outer, last = cls.kernel_shape_of(layer)
        factory: dict[str, Any] = {"dtype": torch.float32, "device": layer.weight.device}
        adapted.lora_kernel_a = nn.Parameter(torch.empty(*outer, rank, **factory))
        adapted.lora_kernel_b = nn.Parameter(torch.empty(rank, last, **factory))
        adapted.reset_adapter()
        return adapted

    @staticmethod
    def kernel_shape_of(layer: Any) -> tuple[int, ...]:
        """Shape of the layer's kernel in Keras."""
        raise NotImplementedError

    def delta(self) -> torch.Tensor:
        """What the adapter adds to `weight`, in full size and float32."""
        raise NotImplementedError

    def reset_adapter(self) -> None:
        """A random first factor and a zero second one, so that nothing is added."""
        _he_uniform(self.lora_kernel_a, *keras_fans(tuple(self.lora_kernel_a.shape)))
        nn.init.zeros_(self.lora_kernel_b)
        self.merged = False

    def merged_tensor(self, name: str) -> torch.Tensor:
        """A parameter as it would be with the adapter merged."""
        tensor = getattr(self, name)
        if name != "weight" or self.merged:
            return tensor
        return (tensor.float() + self.delta()).to(tensor.dtype)

    @torch.no_grad()
    def merge(self, sign: int = 1) -> None:
        """Add the adapter into the weight, or with `sign=-1` take it out."""
        if self.merged != (sign < 0):
            return
        self.weight.copy_(self.weight.float() + sign * self.delta())
        self.merged = sign > 0

    def unwrap(self) -> nn.Module:
        """The plain layer, without the adapter, with the same weights."""
        plain = self.wrapped_class.__new__(self.wrapped_class)
        plain.__dict__.update(self.__dict__)
        for name in ("lora_kernel_a", "lora_kernel_b"):
            del plain._parameters[name]
        for name in ("wrapped_class", "rank", "scale", "merged"):
            del plain.__dict__[name]
        return plain


class AdaptedDense(Adapter, Projection):
    """`x · kernel + scale · (x · a) · b`; no `nn.Linear`, since it computes more."""

    @staticmethod
    def kernel_shape_of(layer: Projection) -> tuple[int, ...]:
        return layer.kernel_shape

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`[in, outer · rank]`, where `outer` counts the kernel's output axes but the last one,
        and `[rank, last]`.
        """
        a, last = self.lora_kernel_a, len(self.kernel_shape) - 1
        outer = [i for i in range(last) if i not in self.kernel_inputs]
        return a.permute(*self.kernel_inputs, *outer, last).reshape(self.in_features, -1), (
            self.lora_kernel_b
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projected = self.wrapped_class.forward(self, x)
        if self.merged:
            return projected
        return projected + (self.adapt(x.float()) * self.scale).to(projected.dtype)

    def adapt(self, x: torch.Tensor) -> torch.Tensor:
        """`(x · a) · b`, flat like the projection's output."""
        a, b = self.factors()
        return ((x @ a).unflatten(-1, (-1, self.rank)) @ b).flatten(-2)

    def delta(self) -> torch.Tensor:
        a, b = self.factors()
        full = (a.unflatten(-1, (-1, self.rank)) @ b).flatten(1)
        return full.T * self.scale


class AdaptedInnerDense(AdaptedDense):
    """As `AdaptedDense`, for kernels whose last axis is summed over: `(x · b) · a`."""

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`[rest · rank, out]`, where `rest` counts the input axes but the last one, and
        `[last, rank]`.
        """
        a = self.lora_kernel_a.permute(self._axes()).reshape(self.out_features, -1)
        return a.T, self.lora_kernel_b.T

    def adapt(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.factors()
        return (x.unflatten(-1, (-1, len(b))) @ b).flatten(-2) @ a

    def delta(self) -> torch.Tensor:
        a, b = self.factors()
        full = torch.einsum("nro,lr->onl", a.unflatten(0, (-1, self.rank)), b)
        return full.flatten(1) * self.scale


class AdaptedQuantizedDense(AdaptedDense, QuantizedDense):
    """As `AdaptedDense`; the int8 weight cannot take the adapter in."""

    def merge(self, sign: int = 1) -> None:
        raise NotImplementedError("Adapters cannot be merged into int8 weights.")

    def merged_tensor(self, name: str) -> torch.Tensor:
        raise NotImplementedError(
            "Adapters cannot be merged into int8 weights; save them by save_lora_weights."
        )


class AdaptedEmbedding(Adapter, Embedding):
    """`weight[ids] + scale · a[ids] · b`."""

    @staticmethod
    def kernel_shape_of(layer: Embedding) -> tuple[int, ...]:
        return layer.num_embeddings, layer.embedding_dim

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        embedded = super().forward(ids)
        if self.merged:
            return embedded
        added = F.embedding(ids, self.lora_kernel_a) @ self.lora_kernel_b * self.scale
        return embedded + added.to(embedded.dtype)

    def delta(self) -> torch.Tensor:
        return self.lora_kernel_a @ self.lora_kernel_b * self.scale


class AdaptedReversibleEmbedding(AdaptedEmbedding, ReversibleEmbedding):
    """As `AdaptedEmbedding`, in both directions where the weights are tied."""

    def forward(self, inputs: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        if not reverse:
            return AdaptedEmbedding.forward(self, inputs)
        return ReversibleEmbedding.forward(self, inputs, reverse=True)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().logits(x)
        if self.merged or not self.tie_weights:
            return logits
        added = x.float() @ self.lora_kernel_b.T @ self.lora_kernel_a.T * self.scale
        return logits + added.to(logits.dtype)


class AdaptedConvolution(Adapter, Convolution):
    """A convolution beside one of `rank` filters and one of size 1 behind it."""

    @staticmethod
    def kernel_shape_of(layer: Convolution) -> tuple[int, ...]:
        return tuple(layer.to_kernel(layer.weight).shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        if self.merged:
            return y
        a = self.from_kernel(self.lora_kernel_a)
        inner = self._conv_forward(x.to(a.dtype), a, None)
        added = torch.einsum("nr...,rc->nc...", inner, self.lora_kernel_b)
        return y + (added * self.scale).to(y.dtype)

    def delta(self) -> torch.Tensor:
        return self.from_kernel(self.lora_kernel_a @ self.lora_kernel_b) * self.scale


class AdaptedConv1D(AdaptedConvolution, Conv1D):
    pass


class AdaptedConv2D(AdaptedConvolution, Conv2D):
    pass


class AdaptedConv3D(AdaptedConvolution, Conv3D):
    pass


ADAPTERS: dict[type[nn.Module], type[Adapter]] = {
    QuantizedDense: AdaptedQuantizedDense,
    Dense: AdaptedDense,
    ReversibleEmbedding: AdaptedReversibleEmbedding,
    Embedding: AdaptedEmbedding,
    Conv1D: AdaptedConv1D,
    Conv2D: AdaptedConv2D,
    Conv3D: AdaptedConv3D,
}


def adapter_for(layer: nn.Module) -> type[Adapter] | None:
    """The adapted form of a layer; `None` where Keras has none either."""
    if isinstance(layer, Adapter):
        return type(layer)
    if isinstance(layer, QuantizedEmbedding) or (
        isinstance(layer, Convolution) and layer.groups > 1
    ):
        return None
    found = next((adapter for kind, adapter in ADAPTERS.items() if isinstance(layer, kind)), None)
    if isinstance(layer, Projection) and len(layer.kernel_shape) - 1 in layer.kernel_inputs:
        return AdaptedInnerDense if found is AdaptedDense else None
    return found


def adapter_shapes(layer: nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the two factors for a layer."""
    adapter = adapter_for(layer)
    assert adapter is not None
    *outer, last = adapter.kernel_shape_of(layer)
    return (*outer, rank), (rank, last)
