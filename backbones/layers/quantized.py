"""Layers with int8 weights, as Keras's `quantize("int8")` leaves them.

A weight w is stored as round(w · s), its scale s per output; inputs are quantized on the fly, per
row. Only the loaded form exists here: weights are buffers, nothing in them trains, but gradients
flow through to what comes before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .core import Dense, Embedding, Projection, ReversibleEmbedding
from .layout import Child, keras_children

EPSILON = 1e-7


class QuantizedDense(Projection):
    """A projection with `weight` `[out, in]` in int8 and `kernel_scale` `[out]`; no `nn.Linear`,
    since it computes something else.
    """

    kernel_scale: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or self.kernel_scale.dtype
        y = product(x.to(dtype), self.weight, self.kernel_scale.to(dtype))
        return y if self.bias is None else y + self.bias.to(dtype)


class QuantizedEmbedding(Embedding):
    """An embedding with int8 `weight` `[input_dim, dim]` and `embeddings_scale` `[input_dim]`."""

    embeddings_scale: torch.Tensor

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or self.embeddings_scale.dtype
        scale = self.embeddings_scale.to(dtype)[ids][..., None]
        return F.embedding(ids, self.weight).to(dtype) / scale


class QuantizedReversibleEmbedding(QuantizedEmbedding, ReversibleEmbedding):
    """The same in both directions; an untied one has `reverse_embeddings_scale` `[input_dim]`."""

    reverse_embeddings_scale: torch.Tensor

    def forward(self, inputs: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        if not reverse:
            return QuantizedEmbedding.forward(self, inputs)
        return ReversibleEmbedding.forward(self, inputs, reverse=True)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or self.embeddings_scale.dtype
        if self.tie_weights:
            return product(x.to(dtype), self.weight, self.embeddings_scale.to(dtype))
        scale = self.reverse_embeddings_scale.to(dtype)
        return product(x.to(dtype), self.reverse_embeddings.T, scale)


def product(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`x` `[..., in]` times int8 `[out, in]`, both sides quantized."""
    with torch.no_grad():
        largest = x.abs().amax(-1, keepdim=True)
        x_scale = 127 / (largest + EPSILON)
        rounded = (x * x_scale).round().clamp(-127, 127)
        # Sums of products of integers, exact in float32 up to a thousand of them.
        y = F.linear(rounded.float(), weight.float()).to(x.dtype) / (x_scale * scale)
    if torch.is_grad_enabled() and x.requires_grad:
        smooth = F.linear(x, weight.to(x.dtype) / scale[:, None])
        y = y + (smooth - smooth.detach())
    return y


def quantize_layers(
    module: nn.Module, modes: Mapping[str, str], prefix: str = "", seen: Child | None = None
) -> list[str]:
    """Give the layers at these paths of Keras names (`block_0/attention/query`) int8 weights.

    Returns:
        The paths that were found.

    Raises:
        NotImplementedError: a mode other than `int8`, or a layer that cannot have it.
    """
    found = []
    only = None if seen is None else seen.layout.only
    for child in keras_children(module, *(() if seen is None else (seen.layout, seen.name))):
        if only is not None and not only(child.name):
            continue
        path = f"{prefix}{child.name}"
        if path in modes:
            found.append(path)
            owner, _, name = child.path.rpartition(".")
            setattr(module.get_submodule(owner), name, _quantized(child.module, modes[path], path))
        else:
            found += quantize_layers(child.module, modes, f"{path}/", child)
    return found


def _quantized(layer: nn.Module, mode: str, path: str) -> nn.Module:
    kinds: dict[type[nn.Module], tuple[type[nn.Module], dict[str, str]]] = {
        Dense: (QuantizedDense, {"weight": "kernel_scale"}),
        ReversibleEmbedding: (
            QuantizedReversibleEmbedding,
            {"weight": "embeddings_scale", "reverse_embeddings": "reverse_embeddings_scale"},
        ),
        Embedding: (QuantizedEmbedding, {"weight": "embeddings_scale"}),
    }
    for kind, (quantized, scales) in kinds.items():
        if isinstance(layer, kind) and mode == "int8":
            return _convert(layer, quantized, scales)
    raise NotImplementedError(
        f"{path} is quantized as {mode!r}; only int8 projections and embeddings can be loaded."
    )


def _convert(layer: Any, kind: type[nn.Module], scales: Mapping[str, str]) -> nn.Module:
    """A layer of this kind that takes over everything but the weights, made anew in int8."""
    converted = kind.__new__(kind)
    converted.__dict__.update(layer.__dict__)
    converted.__dict__["_parameters"] = dict(layer._parameters)
    converted.__dict__["_buffers"] = dict(layer._buffers)
    converted.__dict__["wrapped_class"] = type(layer)
    for name, scale in scales.items():
        weight = converted._parameters.pop(name, None)
        if weight is None:
            continue
        outputs = weight.shape[1] if name == "reverse_embeddings" else weight.shape[0]
        converted.register_buffer(name, torch.zeros_like(weight, dtype=torch.int8))
        converted.register_buffer(scale, torch.ones(outputs, device=weight.device))
    return converted
