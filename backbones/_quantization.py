"""Which layers of a model a dtype policy is for, and those layers with weights of few bits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import nn

from ._configuration import snake_case
from .layers.core import Dense, Embedding, ReversibleEmbedding
from .layers.dtypes import Quantization
from .layers.integers import AbsMaxQuantizer
from .layers.layout import Child, keras_children
from .layers.quantized import (
    AWQDense,
    Float8Dense,
    GPTQDense,
    Int4Dense,
    Int8Dense,
    Quantized,
    QuantizedEmbedding,
    QuantizedReversibleEmbedding,
)

# Keras's layers that can be quantized; no subclasses.
CLASSES = ("Dense", "EinsumDense", "Embedding", "ReversibleEmbedding")
DENSE: Mapping[str, type[Quantized]] = {
    "int8": Int8Dense,
    "int4": Int4Dense,
    "float8": Float8Dense,
    "gptq": GPTQDense,
    "awq": AWQDense,
}


def quantized_class(layer: nn.Module, mode: str) -> type[Quantized] | None:
    """What a layer becomes, if Keras quantizes its like."""
    if isinstance(layer, Dense):
        return DENSE[mode]
    own: type[Quantized] | None = getattr(layer, "quantized_class", None)
    if mode not in ("int8", "int4") or own is not None or not isinstance(layer, Embedding):
        return own if mode in ("int8", "int4") else None
    if isinstance(layer, ReversibleEmbedding):
        return QuantizedReversibleEmbedding
    return QuantizedEmbedding if type(layer) is Embedding else None


def default_activations(quantization: Quantization) -> AbsMaxQuantizer | None:
    """What a layer of a preset does to its inputs, which files do not say."""
    return AbsMaxQuantizer() if quantization.mode == "int8" else None


@torch.no_grad()
def quantize_layers(model: nn.Module, modes: Mapping[str, Quantization]) -> dict[str, str]:
    """Give the layers at these paths of Keras names (`block_0/attention/query`) such weights.

    Returns:
        The paths of the modules, of those that were found.

    Raises:
        NotImplementedError: a layer that cannot have them.
    """
    found = matched(modes, list(_places(model, (), "")))
    made: dict[int, Quantized] = {}
    for name, place in found.items():
        layer, quantization = place.layer, modes[name]
        if isinstance(layer, Quantized) and layer.quantization == quantization:
            continue  # a part's own configuration has said so
        if id(layer) not in made:
            kind = quantized_class(layer, quantization.mode)
            if kind is None:
                raise NotImplementedError(
                    f"{name} is quantized as {quantization.mode!r}, which a "
                    f"{type(layer).__name__} cannot be here."
                )
            activations = default_activations(quantization)
            made[id(layer)] = kind.convert(layer, quantization, activations)
            drawn = not next(layer.parameters()).is_meta
            if drawn and quantization.mode in ("int8", "int4"):
                made[id(layer)].fill(layer)
        owner, _, leaf = place.path.rpartition(".")
        setattr(model.get_submodule(owner), leaf, made[id(layer)])
    return {name: place.path for name, place in found.items()}


@dataclass(frozen=True)
class Place:
    """A layer within a model.

    Attributes:
        parts: of its Keras path, those that Keras numbers with a `#`.
        path: of the module.
    """

    parts: tuple[str, ...]
    path: str
    layer: nn.Module


def _places(
    module: nn.Module, parts: tuple[str, ...], prefix: str, seen: Child | None = None
) -> Iterator[Place]:
    only = None if seen is None else seen.layout.only
    for child in keras_children(module, *(() if seen is None else (seen.layout, seen.name))):
        if only is not None and not only(child.name):
            continue
        name = child.name
        if child.unnamed:  # which number it has depends on what was built before
            name = f"{snake_case(child.class_name)}#"
        inner, path = (*parts, name), f"{prefix}{child.path}"
        if child.class_name in CLASSES:
            yield Place(inner, path, child.module)
        else:
            yield from _places(child.module, inner, f"{path}.", child)


def matched(names: Iterable[str], places: list[Place]) -> dict[str, Place]:
    """Keras paths → places.

    A path may lack the names of models and layers that a part was built outside of.
    """
    left, found = dict.fromkeys(names), dict[str, Place]()
    free = {place.path: place for place in places}
    for missing in range(max((len(place.parts) for place in places), default=0)):
        if not left:
            break
        groups: dict[str, list[Place]] = {}
        for place in free.values():
            *outer, last = place.parts
            for parts in combinations(outer, max(0, len(outer) - missing)):
                groups.setdefault("/".join((*parts, last)), []).append(place)
        for name, group in groups.items():
            hits = _numbered(name, left) if "#" in name else [name] * (name in left)
            group = [place for place in group if place.path in free]
            if len(hits) == len(group):
                for hit, place in zip(hits, group):
                    found[hit] = place
                    del left[hit], free[place.path]
    return found


def _numbered(name: str, names: Mapping[str, Any]) -> list[str]:
    """Those with any numbers for a `#`, in the order of these."""
    pattern = re.compile(re.escape(name).replace(r"\#", r"(?:_([0-9]{1,9}))?"))
    hits = [(match, hit) for hit in names if (match := pattern.fullmatch(hit)) is not None]
    return [hit for _, hit in sorted(([int(n or 0) for n in m.groups()], hit) for m, hit in hits)]
