"""`keras.quantizers`: weights of few bits, and how a model is given them."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from ..backbones._model import Model
from ..backbones._quantization import CLASSES, quantized_class
from ..backbones.layers.core import Dense
from ..backbones.layers.integers import AbsMaxQuantizer
from ..backbones.layers.layout import Kind
from ..backbones.layers.quantized import PackedDense, Quantized
from ..presets.keras.tree import Layer, flat_layers, keras_tree
from ..presets.weights import refuse_broken
from .calibration import calibrate
from .configs import (
    AWQConfig,
    CalibratedConfig,
    Float8QuantizationConfig,
    GPTQConfig,
    Int4QuantizationConfig,
    Int8QuantizationConfig,
    QuantizationConfig,
    resolved,
)

__all__ = [
    "AWQConfig",
    "AbsMaxQuantizer",
    "Float8QuantizationConfig",
    "GPTQConfig",
    "Int4QuantizationConfig",
    "Int8QuantizationConfig",
    "QuantizationConfig",
]


@dataclass(frozen=True)
class Target:
    """A layer that may be quantized, as filters see it.

    Attributes:
        name, path: of the Keras layer.
        key: path of the module.
    """

    name: str
    path: str
    key: str
    module: nn.Module


@torch.no_grad()
def quantize(
    model: Model,
    mode: str | None,
    config: QuantizationConfig | None,
    filters: str | Sequence[str] | Callable[[Target], bool] | None,
) -> dict[str, str]:
    """See `Backbone.quantize`."""
    config = resolved(mode, config)
    refuse_broken(model)
    model.refuse_shared("quantize")
    if config.mode == "int8" and model.dtype_policy.compute_dtype == torch.float16:
        raise ValueError(
            "int8 does not go with computing in float16; take bfloat16, or mixed_bfloat16."
        )
    known = targets(model)
    for target in known:
        if isinstance(target.module, Quantized):
            raise ValueError(f"{target.path} is {target.module.quantization.mode} already.")
        if hasattr(target.module, "lora_kernel_a"):
            raise ValueError(f"{target.path} has an adapter; merge it or delete it first.")
    wanted = {
        target.key: target
        for target in known
        if quantized_class(target.module, config.mode) is not None and _wanted(target, filters)
    }

    def converted(key: str) -> Quantized:
        layer = wanted[key].module
        kind = quantized_class(layer, config.mode)
        assert kind is not None
        return kind.convert(
            layer, config.quantization, config.activation_quantizer, config.weight_quantizer
        )

    if isinstance(config, CalibratedConfig):
        layers = {key: cast(Dense, target.module) for key, target in wanted.items()}
        done = calibrate(model, config, layers, lambda key: cast(PackedDense, converted(key)))
    else:
        made: dict[int, Quantized] = {}  # layers may be in several places
        for key, target in wanted.items():
            if id(target.module) not in made:
                layer = made[id(target.module)] = converted(key)
                layer.fill(target.module)
            owner, _, leaf = key.rpartition(".")
            setattr(model.get_submodule(owner), leaf, made[id(target.module)])
        done = list(wanted)
    if not done:
        warnings.warn("No layer of the model was quantized.", stacklevel=3)
        return {}
    place = {layer.key: i for i, layer in enumerate(flat_layers(model))}
    done.sort(key=lambda key: place.get(key, len(place)))  # as Keras lists them
    model.quantized_as({wanted[key].path: (key, config.quantization) for key in done})
    return {wanted[key].path: config.mode for key in done}


def targets(model: Model) -> list[Target]:
    """The layers whose kind Keras quantizes."""
    found = list(_targets(model, keras_tree(model), "", ""))
    # Two towers may have layers of one path, which KerasHub then cannot save.
    count = Counter(short for short, _ in found)
    return [
        Target(one.name, short if count[short] == 1 else one.path, one.key, one.module)
        for short, one in found
    ]


def _targets(model: Model, layer: Layer, scope: str, whole: str) -> Iterator[tuple[str, Target]]:
    for child in layer.children:
        name, path = f"{scope}{child.name}", f"{whole}{child.name}"
        if child.class_name in CLASSES:
            module = model.get_submodule(child.key)
            yield name, Target(child.name, path, child.key, module)
        else:
            layout = child.layout
            outside = layout.outside or layout.kind in (Kind.GRAPH, Kind.MODEL)
            inner = "" if outside else f"{name}/"
            yield from _targets(model, child, inner, f"{path}/")


def _wanted(target: Target, filters: str | Sequence[str] | Callable[[Target], bool] | None) -> bool:
    if filters is None:
        return True
    if callable(filters):
        return filters(target)
    patterns = [filters] if isinstance(filters, str) else filters
    return any(re.search(pattern, target.name) for pattern in patterns)
