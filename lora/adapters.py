"""Layers with a low-rank adapter (Hu et al., 2021, arXiv:2106.09685).

An adapted layer takes the place of the plain one with the same weights under the same names, and
adds `lora_kernel_a` and `lora_kernel_b` in float32. They come in two forms:

- Keras's, by default: the kernel's shape with the rank for its last axis, and rank × last axis. A
  kernel `[in, heads, head_dim]` so has a first factor for every head, and shares the second one.
- flat, as in PEFT: `[in, rank]` and `[rank, out]` (`AdaptedFlatDense`). Whatever comes from PEFT
  keeps its rank in it; in Keras's form the same function may need as many times the rank as there
  are heads.

Without heads (`[in, out]`, or a single head) the two are one, and Keras's shapes are taken.

An adapter computes in float32 at least, in whatever type a cast has left its factors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from ..backbones.layers.convolution import Conv1D, Conv2D, Conv3D, Convolution
from ..backbones.layers.core import Dense, Embedding, Projection, ReversibleEmbedding
from ..backbones.layers.dtypes import in_compute_dtype
from ..backbones.layers.initializers import keras_fans, variance_scaling
from ..backbones.layers.layout import keras_children
from ..backbones.layers.quantized import (
    Int4Dense,
    Int8Dense,
    QuantizedDense,
    QuantizedEmbedding,
    QuantizedReversibleEmbedding,
)
from ..presets.gathering import full, is_fully_sharded, local, local_part, sharded_as
from ..presets.weights import with_tensors

FACTORS = ("lora_kernel_a", "lora_kernel_b")
_he_uniform = variance_scaling(2.0, "fan_in", "uniform")
# Takes a part of an axis.
Cut: TypeAlias = Callable[[torch.Tensor, int], torch.Tensor]
Matrices: TypeAlias = tuple[torch.Tensor, torch.Tensor]
AdapterType = TypeVar("AdapterType", bound="Adapter")


class _Merged(torch.autograd.Function):
    """The output of a layer whose adapter is merged, and so cannot learn from a gradient."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return y.clone()  # a view could not be changed in place by what follows

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise RuntimeError(
            "LoRA is merged into the weights, where it cannot be trained: call unmerge_lora() to "
            "train it further, enable_lora(rank) to train new adapters on top of it, or "
            "delete_lora() to have plain layers."
        )


class Adapter(nn.Module):
    """What all adapted layers share.

    Attributes:
        scale: `lora_alpha / rank`, a factor of the adapter's output.
        active: whether the adapter takes part in what the layer computes.
        merged: whether the weight includes the adapter, which then is not computed.
        plain_class: of the layer without the adapter.
        adapter_class: of the layer, whatever `fully_shard` has made of it.
    """

    weight: torch.Tensor
    lora_kernel_a: torch.Tensor
    lora_kernel_b: torch.Tensor
    plain_class: type[nn.Module]
    adapter_class: type[Adapter]
    wrapped_class: type[nn.Module]  # which Keras's name of the class comes from
    rank: int
    scale: float
    active: bool
    merged: bool

    @classmethod
    def wrap(cls: type[AdapterType], layer: Any, rank: int, scale: float) -> AdapterType:
        """An adapted layer that shares the parameters of `layer`, which should not be used on."""
        adapted = cls.__new__(cls)
        adapted.__dict__.update(layer.__dict__)
        # FSDP's hooks go with the layer, and its class stays behind.
        plain = type(layer).__mro__[2] if is_fully_sharded(layer) else type(layer)
        adapted.__dict__.setdefault("wrapped_class", plain)
        adapted.plain_class, adapted.adapter_class = plain, cls
        adapted.rank, adapted.scale, adapted.active, adapted.merged = rank, scale, True, False
        *outer, last = cls.kernel_shape_of(layer)
        factory: dict[str, Any] = {"dtype": torch.float32, "device": layer.weight.device}
        adapted.lora_kernel_a = nn.Parameter(torch.empty(*outer, rank, **factory))
        adapted.lora_kernel_b = nn.Parameter(torch.empty(rank, last, **factory))
        adapted.reset_adapter()
        if hasattr(layer, "with_adapter"):  # processes have parts of it
            adapted.__class__ = layer.with_adapter(cls, FACTORS)
        return adapted

    @staticmethod
    def kernel_shape_of(layer: Any) -> tuple[int, ...]:
        """Shape of the layer's kernel in Keras, which the factors' shapes come from."""
        raise NotImplementedError

    def keras_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The factors in Keras's form, equal in what they add to the weight."""
        return self.lora_kernel_a, self.lora_kernel_b

    @property
    def is_added(self) -> bool:
        """Whether the adapter is computed beside the weight."""
        return self.active and not self.merged

    def guarded(self, y: torch.Tensor) -> torch.Tensor:
        """What the weight alone gives, which no gradient of a merged adapter may pass."""
        trains = torch.is_grad_enabled() and self.lora_kernel_b.requires_grad
        if not self.merged or not trains or torch.compiler.is_compiling():
            return y
        guarded: torch.Tensor = _Merged.apply(y, self.lora_kernel_b)  # type: ignore[no-untyped-call]
        return guarded

    def delta(self) -> torch.Tensor:
        """What the adapter adds to `weight`, in full size and float32."""
        raise NotImplementedError

    def reset_adapter(self) -> None:
        """A random first factor and a zero second one, so that nothing is added."""
        a = self.lora_kernel_a
        whole = torch.empty(a.shape, dtype=a.dtype, device=a.device)
        _he_uniform(whole, *keras_fans(tuple(a.shape)))
        with torch.no_grad():
            local(a).copy_(local_part(whole, a))
            local(self.lora_kernel_b).zero_()
        self.merged = False

    def merged_from(self, name: str) -> tuple[str, ...]:
        """The parameters that `merged_tensor` looks at."""
        if name == "weight" and self.is_added:
            return "weight", *FACTORS
        return (name,)

    def merged_tensor(self, name: str) -> torch.Tensor:
        """A parameter as the layer computes with it: with an active adapter merged."""
        tensor: torch.Tensor = getattr(self, name)
        if name != "weight" or self.merged:
            return tensor
        if not self.active:
            warnings.warn(
                "LoRA is disabled: the weights are saved without it. save_lora_weights saves the "
                "adapters.",
                stacklevel=2,
            )
            return tensor
        return self._shifted(1).to(tensor.dtype)

    @torch.no_grad()
    def merge(self, sign: int = 1) -> None:
        """Add the adapter into the weight, or with `sign=-1` take it out."""
        if self.merged != (sign < 0):
            return
        local(self.weight).copy_(self._shifted(sign))
        self.merged = sign > 0

    def _shifted(self, sign: int) -> torch.Tensor:
        """The weight with the adapter added or taken away, in the adapter's precision; of a sharded
        one the part of this process.
        """
        factors = {name: full(getattr(self, name)) for name in FACTORS}
        delta: torch.Tensor = with_tensors(self, factors).delta()  # type: ignore[operator]
        return local(self.weight).to(delta.dtype) + sign * local_part(delta, self.weight)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """A state dict has the weight without the adapter and the factors, merged or not, so that
        it means the same to every model that loads it.
        """
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.merged and not keep_vars:
            weight = self._shifted(-1).to(self.weight.dtype)
            destination[f"{prefix}weight"] = sharded_as(weight.detach(), self.weight)

    def _load_from_state_dict(self, *args: Any) -> None:
        self.merge(sign=-1)
        super()._load_from_state_dict(*args)

    def unwrap(self) -> nn.Module:
        """The plain layer, without the adapter, with the same weights."""
        plain = self.plain_class.__new__(self.plain_class)
        plain.__dict__.update(self.__dict__)
        for name in FACTORS:
            del plain._parameters[name]
        for name in ("plain_class", "adapter_class", "rank", "scale", "active", "merged"):
            del plain.__dict__[name]
        if self.wrapped_class is self.plain_class:
            del plain.__dict__["wrapped_class"]
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
        a, last = precise(self.lora_kernel_a), len(self.kernel_shape) - 1
        outer = [i for i in range(last) if i not in self.kernel_inputs]
        return (
            a.permute(*self.kernel_inputs, *outer, last).reshape(self.in_features, -1),
            precise(self.lora_kernel_b),
        )

    def cut_outputs(self, a: torch.Tensor, b: torch.Tensor, cut: Cut) -> Matrices:
        """The part of `factors` for those outputs that `cut` takes of an axis."""
        if self.blocks == 1:
            return a, cut(b, 1)
        return cut(a.unflatten(1, (-1, self.rank)), 1).flatten(1), b

    def cut_inputs(self, a: torch.Tensor, b: torch.Tensor, cut: Cut) -> Matrices:
        """The part of `factors` for those inputs that `cut` takes of an axis."""
        return cut(a, 0), b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projected = getattr(self.plain_class, "undivided", self.plain_class).forward(self, x)
        if not self.is_added:
            return self.guarded(projected)
        return projected + (self.adapt(x) * self.scale).to(projected.dtype)

    def adapt(self, x: torch.Tensor) -> torch.Tensor:
        """`(x · a) · b`, flat like the projection's output."""
        a, b = self.factors()
        return ((in_compute_dtype(x, a.dtype) @ a).unflatten(-1, (-1, self.rank)) @ b).flatten(-2)

    def delta(self) -> torch.Tensor:
        a, b = self.factors()
        full = (a.unflatten(-1, (-1, self.rank)) @ b).flatten(1)
        return full.T * self.scale

    @property
    def blocks(self) -> int:
        """How many first factors there are for one second factor: `heads` of a kernel
        `[in, heads, head_dim]`.
        """
        return self.out_features // self.kernel_shape[-1]

    def flat_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`[rank, in]` and `[out, rank]` as in PEFT, equal in what they add to the weight but for
        the scale; the rank is `blocks` times as large, and the factor of which there is only one
        stands on a diagonal.
        """
        a, b = self.factors()
        return a.T, torch.block_diag(*[b.T] * self.blocks)


class AdaptedInnerDense(AdaptedDense):
    """As `AdaptedDense`, for kernels whose last axis is summed over: `(x · b) · a`."""

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`[rest · rank, out]`, where `rest` counts the input axes but the last one, and
        `[last, rank]`.
        """
        a = precise(self.lora_kernel_a).permute(self._axes()).reshape(self.out_features, -1)
        return a.T, precise(self.lora_kernel_b).T

    def cut_outputs(self, a: torch.Tensor, b: torch.Tensor, cut: Cut) -> Matrices:
        return cut(a, 1), b

    def cut_inputs(self, a: torch.Tensor, b: torch.Tensor, cut: Cut) -> Matrices:
        if self.blocks == 1:
            return a, cut(b, 0)
        return cut(a.unflatten(0, (-1, self.rank)), 0).flatten(0, 1), b

    def adapt(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.factors()
        return (in_compute_dtype(x, b.dtype).unflatten(-1, (-1, len(b))) @ b).flatten(-2) @ a

    def delta(self) -> torch.Tensor:
        a, b = self.factors()
        full = torch.einsum("nro,lr->onl", a.unflatten(0, (-1, self.rank)), b)
        return full.flatten(1) * self.scale

    @property
    def blocks(self) -> int:
        return self.in_features // self.kernel_shape[-1]

    def flat_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = self.factors()
        return torch.block_diag(*[b.T] * self.blocks), a.T


class AdaptedFlatDense(AdaptedDense):
    """As `AdaptedDense` with the factors of a plain matrix, `[in, rank]` and `[rank, out]`.

    Layers that are one weight elsewhere, as query, key and value are in GPT-2's checkpoints, may
    have one parameter as their first factor, as they have it there.
    """

    @staticmethod
    def kernel_shape_of(layer: Projection) -> tuple[int, ...]:
        return layer.in_features, layer.out_features

    @property
    def blocks(self) -> int:
        return 1

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return precise(self.lora_kernel_a), precise(self.lora_kernel_b)

    def keras_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of rank `heads · rank`, in which every head has its part of the second factor, or of
        rank `last`, the whole of what is added times the identity; whichever is smaller.
        """
        a, b = self.factors()
        last = self.kernel_shape[-1]
        heads = self.out_features // last
        if sums_last(self) or heads * self.rank >= last:
            kernel = self.to_kernel((a @ b).T)
            return kernel, torch.eye(last, dtype=a.dtype, device=a.device)
        # [heads, heads · rank]: ones where a head's own columns are.
        own = torch.block_diag(*[a.new_ones(1, self.rank)] * heads)
        keras_a = to_kernel_a(self, a.repeat(1, heads)[:, None] * own)
        return keras_a, b.unflatten(1, (heads, last)).transpose(0, 1).flatten(0, 1)


def keras_form(
    layer: Projection, down: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Keras's factors for those that `flat_factors` made of them, `[rank, in]` and `[out, rank]`;
    `None` for any others.
    """
    inner, last = sums_last(layer), layer.kernel_shape[-1]
    matrix, single = (up, down) if inner else (down.T, up.T)
    count = (layer.in_features if inner else layer.out_features) // last
    rank = len(down) // count
    b = single[:rank, :last]
    if rank * count != len(down) or not torch.equal(single, torch.block_diag(*[b] * count)):
        return None
    return to_kernel_a(layer, matrix.reshape(-1, rank)), b


def to_kernel_a(layer: Projection, rows: torch.Tensor) -> torch.Tensor:
    """Keras's first factor, of rows in the order in which `factors` has them."""
    axes = range(len(layer.kernel_shape))
    outputs = [i for i in axes if i not in layer.kernel_inputs]
    inputs = list(layer.kernel_inputs)
    order = outputs + inputs if sums_last(layer) else inputs + outputs
    sizes = [layer.kernel_shape[i] for i in order[:-1]]
    return rows.reshape(*sizes, rows.shape[-1]).permute([order.index(i) for i in axes])


class AdaptedQuantized(Adapter):
    """What the adapted forms of quantized layers share: files have the sum, quantized again."""

    def merge(self, sign: int = 1) -> None:
        if sign > 0:
            raise NotImplementedError(
                "Adapters cannot be merged into quantized weights, which could not give them back; "
                "weights and presets that are saved have them merged."
            )

    def merged_from(self, name: str) -> tuple[str, ...]:
        if name == "bias" or not self.active:
            return (name,)
        tensors = (*self._parameters.items(), *self._buffers.items())
        return tuple(k for k, tensor in tensors if tensor is not None)

    def merged_tensor(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = getattr(self, name)
        if not self.active:
            return super().merged_tensor(name)
        if name == "bias":
            return tensor
        with torch.no_grad():
            return self.merged_weights().get(name, tensor).to(tensor.dtype)

    def merged_weights(self) -> dict[str, torch.Tensor]:
        """What the layer would hold with the adapter in its weights."""
        raise NotImplementedError


class AdaptedQuantizedDense(AdaptedQuantized, AdaptedDense, QuantizedDense):
    """As `AdaptedDense`."""

    def merged_weights(self) -> dict[str, torch.Tensor]:
        return self.quantize({"weight": self.dequantized(torch.float32) + self.delta()})


class AdaptedInt8Dense(AdaptedQuantizedDense, Int8Dense):
    pass


class AdaptedInt4Dense(AdaptedQuantizedDense, Int4Dense):
    pass


class AdaptedFlatInt8Dense(AdaptedFlatDense, AdaptedInt8Dense):
    pass


class AdaptedFlatInt4Dense(AdaptedFlatDense, AdaptedInt4Dense):
    pass


class AdaptedEmbedding(Adapter, Embedding):
    """`weight[ids] + scale · a[ids] · b`."""

    @staticmethod
    def kernel_shape_of(layer: Embedding) -> tuple[int, ...]:
        return layer.num_embeddings, layer.embedding_dim

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        embedded = super().forward(ids)
        if not self.is_added:
            return self.guarded(embedded)
        rows = precise(F.embedding(ids, self.lora_kernel_a))
        added = rows @ precise(self.lora_kernel_b) * self.scale
        return embedded + added.to(embedded.dtype)

    def delta(self) -> torch.Tensor:
        return precise(self.lora_kernel_a) @ precise(self.lora_kernel_b) * self.scale


class AdaptedReversibleEmbedding(AdaptedEmbedding, ReversibleEmbedding):
    """As `AdaptedEmbedding`, in both directions where the weights are tied."""

    def forward(self, inputs: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        if not reverse:
            return AdaptedEmbedding.forward(self, inputs)
        return ReversibleEmbedding.forward(self, inputs, reverse=True)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().logits(x)
        if not self.tie_weights:
            return logits
        if not self.is_added:
            return self.guarded(logits)
        a, b = precise(self.lora_kernel_a), precise(self.lora_kernel_b)
        return logits + (x.to(b.dtype) @ b.T @ a.T * self.scale).to(logits.dtype)


class AdaptedQuantizedEmbedding(AdaptedQuantized, AdaptedEmbedding, QuantizedEmbedding):
    """As `AdaptedEmbedding`."""

    def merged_weights(self) -> dict[str, torch.Tensor]:
        scale = self.embeddings_scale.float()
        table = self.read(self.weight, scale, self.embeddings_zero)
        return self.quantize_table("", table + self.delta(), "weight")


class AdaptedQuantizedReversibleEmbedding(AdaptedQuantizedEmbedding, QuantizedReversibleEmbedding):
    """As `AdaptedEmbedding`; logits are without the adapter, as in Keras."""

    def forward(self, inputs: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        if not reverse:
            return AdaptedEmbedding.forward(self, inputs)
        return QuantizedReversibleEmbedding.forward(self, inputs, reverse=True)


class AdaptedConvolution(Adapter, Convolution):
    """A convolution beside one of `rank` filters and one of size 1 behind it."""

    @staticmethod
    def kernel_shape_of(layer: Convolution) -> tuple[int, ...]:
        return tuple(layer.to_kernel(layer.weight).shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        if not self.is_added:
            return self.guarded(y)
        # Of a single filter in other strides torch computes no gradient on a CPU.
        a = self.from_kernel(precise(self.lora_kernel_a)).contiguous()
        inner = self._conv_forward(in_compute_dtype(x, a.dtype), a, None)
        added = torch.einsum("nr...,rc->nc...", inner, precise(self.lora_kernel_b))
        return y + (added * self.scale).to(y.dtype)

    def delta(self) -> torch.Tensor:
        kernel = precise(self.lora_kernel_a) @ precise(self.lora_kernel_b)
        return self.from_kernel(kernel) * self.scale


class AdaptedConv1D(AdaptedConvolution, Conv1D):
    pass


class AdaptedConv2D(AdaptedConvolution, Conv2D):
    pass


class AdaptedGroupedConv2D(AdaptedConvolution, Conv2D):
    """Its adapter is a convolution in the same groups, with a kernel of full size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = Convolution.forward(self, x)
        if not self.is_added:
            return self.guarded(y)
        delta = self.delta()
        return y + self._conv_forward(in_compute_dtype(x, delta.dtype), delta, None).to(y.dtype)


class AdaptedConv3D(AdaptedConvolution, Conv3D):
    pass


FLAT: dict[type[Adapter], type[Adapter]] = {
    AdaptedInt8Dense: AdaptedFlatInt8Dense,
    AdaptedInt4Dense: AdaptedFlatInt4Dense,
}
ADAPTERS: dict[type[nn.Module], type[Adapter]] = {
    Int8Dense: AdaptedInt8Dense,
    Int4Dense: AdaptedInt4Dense,
    Dense: AdaptedDense,
    QuantizedReversibleEmbedding: AdaptedQuantizedReversibleEmbedding,
    QuantizedEmbedding: AdaptedQuantizedEmbedding,
    ReversibleEmbedding: AdaptedReversibleEmbedding,
    Embedding: AdaptedEmbedding,
    Conv1D: AdaptedConv1D,
    Conv2D: AdaptedConv2D,
    Conv3D: AdaptedConv3D,
}


def precise(factor: torch.Tensor) -> torch.Tensor:
    """A factor in the type that adapters compute in: float32, or its own if that is wider."""
    return factor.to(torch.promote_types(factor.dtype, torch.float32))


def adapter_for(layer: nn.Module, flat: bool = False) -> type[Adapter] | None:
    """The adapted form of a layer, of a projection with `flat` factors where asked for; `None`
    where Keras has none either.
    """
    plain = layer.plain_class if isinstance(layer, Adapter) else type(layer)
    if isinstance(layer, Conv2D) and layer.groups > 1:
        return AdaptedGroupedConv2D
    found = next((adapter for kind, adapter in ADAPTERS.items() if issubclass(plain, kind)), None)
    if found is None or not isinstance(layer, Projection):
        return found
    if flat:
        return FLAT.get(found, AdaptedFlatDense)
    if sums_last(layer):
        return AdaptedInnerDense if found is AdaptedDense else None
    return found


def sums_last(layer: Projection) -> bool:
    """Whether the last axis of the kernel is one of the input."""
    return len(layer.kernel_shape) - 1 in layer.kernel_inputs


def has_heads(layer: nn.Module) -> bool:
    """Whether flat factors of a layer are others than Keras's."""
    return isinstance(layer, Projection) and (
        sums_last(layer) or layer.out_features > layer.kernel_shape[-1]
    )


def adapter_shapes(layer: nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the two factors for a layer, in Keras's form."""
    adapter = adapter_for(layer)
    assert adapter is not None
    *outer, last = adapter.kernel_shape_of(layer)
    return (*outer, rank), (rank, last)


def layers_named(backbone: nn.Module, names: Iterable[str]) -> list[str]:
    """Paths of the modules with one of these Keras names that can be adapted."""
    wanted = set(names)
    found: dict[str, None] = {}  # some are seen twice, as parts of what is taken apart

    def search(module: nn.Module, prefix: str, *seen: Any) -> None:
        for child in keras_children(module, *seen):
            path = f"{prefix}{child.path}"
            if child.name in wanted and adapter_for(child.module) is not None:
                found[path] = None
            search(child.module, f"{path}.", child.layout, child.name)

    search(backbone, "")
    return list(found)
