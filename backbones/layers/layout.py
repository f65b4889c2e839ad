"""How a module's children are laid out as Keras layers.

A module of this package stands where a Keras layer with weights stands and, unless its `Layout`
says otherwise, has the Keras layer's class name, and its children have the Keras layers' names
and attribute names. From this description everything Keras-specific is derived elsewhere: paths
in weight files, layer names, layer indexes. Layers without weights have no part in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .layer import Layer, computing_again
from .watching import watch_of


class Kind(Enum):
    """Where in files the children of a Keras layer stand."""

    LAYER = "each under its attribute"
    GRAPH = "a functional model: all in `layers`, numbered by class, in the order of its graph"
    SEQUENTIAL = "all in `layers`, numbered by class, in their order"
    MODEL = "a subclassed model: in `layers` what comes after that name in the alphabet"
    LEAF = "no layers of their own: their weights are this layer's"


@dataclass(frozen=True)
class Layout:
    """What Keras calls a layer and its children, where it differs from the names here.

    Attributes:
        kind: where the children stand in files.
        class_name: the Keras class; the Python class's name by default.
        names: child → name of the Keras layer, if it is not the child's name here; `{}` stands for
            the name of the layer itself.
        prefix: before the names of all children; `{}` as in `names`.
        attributes: child → attribute of the Keras layer that holds it (in a group: → name suffix).
        unnamed: children that Keras numbers itself (`dense_3`).
        built_on_call: Keras creates the children on the first call and not in the constructor;
            it decides who gets which number.
        order: names of the children in the order of creation, or of a graph (`Graph.order`); by
            default that of the children here.
        assigned: attributes of a model in the order in which KerasHub assigns them (with dots
            where here a layer of the model holds them); by default that of `order`. On JAX and
            TensorFlow layers are counted so.
        group: no Keras layer at all: the children belong to the parent and this gives their names,
            from `{group}` and `{child}`.
        inside: child → what this layer makes of the child's own layout (`flattened`, …); several
            layouts where the child is taken apart (`apart`).
        only: whether a child of that name belongs to this part of a layer that is taken apart.
        numbered: how many layers of a class, in snake case, Keras has numbered before a model's.
        rest: whether this is what no part has: it stands under its attribute, numbered as the
            whole.
        outside: whether Keras builds the children outside of the layer's scope, so that their
            paths in dtype policies begin with themselves; those of a model's layers do.
    """

    kind: Kind = Kind.LAYER
    class_name: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    unnamed: Collection[str] = ()
    built_on_call: bool = False
    order: Sequence[str] = ()
    assigned: Sequence[str] = ()
    group: str | None = None
    inside: Mapping[str, Callable[[Layout], Layout | Sequence[Layout]]] = field(
        default_factory=dict
    )
    only: Callable[[str], bool] | None = None
    numbered: Mapping[str, int] = field(default_factory=dict)
    rest: bool = False
    outside: bool = False


DEFAULT = Layout()
GRAPH = Layout(Kind.GRAPH)


def flattened(layout: Layout) -> Layout:
    """A functional model whose layers are those of the graph that it is called in."""
    return replace(layout, group="{child}")


def functional(layout: Layout) -> Layout:
    """A functional model as one layer, made of another one's inputs and outputs."""
    return replace(layout, kind=Kind.GRAPH, class_name="Functional")


def beside(layout: Layout) -> Layout:
    """A layer that has no part in the graph: it stands under its attribute."""
    return replace(layout, rest=True)


def apart(layout: Layout, *parts: Callable[[str], bool]) -> list[Layout]:
    """A functional model of which these parts are `functional`, each on its own; by names of
    layers.
    """
    return [
        *(replace(functional(layout), only=part) for part in parts),
        replace(layout, rest=True, only=lambda name: not any(part(name) for part in parts)),
    ]


class Stack(Layer, nn.ModuleList):
    """Equal blocks in a row.

    Args:
        name: of the i-th one's Keras layer, with `{}` for i, or a function of i.
        start: what i counts from.
        repeats: how often a model goes through it.
        norm: name beside it of the norm that its last block's output goes through, where it is not
            the next child; empty where the next child takes something else.
        rows: of videos, what the first axis of a block's output counts, the slowest one first: some
            of `batch`, `frames` and `patches`; its second axis counts the others.
    """

    def __init__(
        self,
        name: str | Callable[[int], str],
        blocks: Iterable[nn.Module],
        start: int = 0,
        repeats: int = 1,
        norm: str | None = None,
        rows: Sequence[str] = (),
    ) -> None:
        super().__init__(blocks)
        self.block_name = name.format if isinstance(name, str) else name
        self.start = start
        self.repeats = repeats
        self.norm = norm
        self.rows = rows
        self.checkpointed = False

    def __iter__(self) -> Iterator[Any]:
        """The blocks to be called; checkpointed ones compute again what the backward pass needs."""
        blocks: Iterator[Any] = super().__iter__()
        if self.checkpointed and torch.is_grad_enabled():
            options: dict[str, Any] = {"use_reentrant": False}
            if not torch.compiler.is_compiling():
                options["context_fn"] = lambda: (nullcontext(), computing_again())
            blocks = (partial(checkpoint, block, **options) for block in blocks)
        watch = watch_of(self)
        return blocks if watch is None else (watch.watched(block) for block in blocks)

    def names(self) -> list[str]:
        """Of the blocks in Keras."""
        return [self.block_name(i) for i in range(self.start, self.start + len(self))]


class Parts(Stack):
    """A stack of layers that are no blocks in a row: what one gives is not what the next takes."""


class Sequential(Layer, nn.Sequential):
    """Layers one after the other; in Keras a `Sequential` with a `layers/` of its own.

    Children without a name (`Sequential(a, b)`) are numbered by Keras.
    """

    layout = Layout(Kind.SEQUENTIAL)


@dataclass(frozen=True)
class Child:
    """A Keras layer inside another one.

    Attributes:
        unnamed: whether Keras numbers it.
        path: of the module within its parent.
        layout: as the parent sees it.
        stacked: whether the attribute is a list.
    """

    name: str
    attribute: str
    class_name: str
    unnamed: bool
    path: str
    module: nn.Module
    layout: Layout
    stacked: bool = False


def layout_of(module: nn.Module) -> Layout:
    return getattr(module, "layout", DEFAULT)


def class_name_of(module: nn.Module) -> str:
    # A wrapper (LoRA) answers for the layer whose place it has taken.
    return layout_of(module).class_name or getattr(module, "wrapped_class", type(module)).__name__


def keras_children(module: nn.Module, layout: Layout | None = None, name: str = "") -> list[Child]:
    """Children in the order of creation, or in that of the layout.

    Args:
        layout: the module's own, unless its parent sees it otherwise.
        name: that of the module's Keras layer.
    """
    layout = layout or layout_of(module)
    if layout.kind is Kind.LEAF:
        return []
    name = name or getattr(module, "keras_name", "")
    children = [
        lifted
        for key, child in module.named_children()
        for lifted in _lift(key, key, child, layout, name)
    ]
    if layout.order:
        place = {child: i for i, child in enumerate(layout.order)}
        children.sort(key=lambda child: place.get(child.name, len(place)))
    return children


def _lift(key: str, path: str, child: nn.Module, layout: Layout, owner: str) -> Iterator[Child]:
    """One child; for a stack its blocks, for a group its own children."""
    attribute = layout.attributes.get(key, key)
    if isinstance(child, Stack):
        for i, (name, block) in enumerate(zip(child.names(), child.children())):
            for lifted in _lift(name, f"{path}.{i}", block, layout, owner):
                yield replace(lifted, attribute=attribute, stacked=True)
        return
    own = layout_of(child)
    if key in layout.inside:
        seen = layout.inside[key](own)
        if not isinstance(seen, Layout):
            for part in seen:
                views: dict[str, Any] = {**layout.inside, key: partial(_given, part)}
                yield from _lift(key, path, child, replace(layout, inside=views), owner)
            return
        own = seen
    name = layout.names.get(key) or getattr(child, "keras_name", "") or key
    name = (layout.prefix + name).replace("{}", owner)
    if own.group is None:
        class_name = own.class_name or class_name_of(child)
        unnamed = key in layout.unnamed or key.isdigit()
        yield Child(name, attribute, class_name, unnamed, path, child, own)
        return
    for inner in keras_children(child, own, name):
        suffix = own.attributes.get(inner.name, inner.name)
        full = inner.name if inner.unnamed else own.group.format(group=name, child=suffix)
        yield replace(inner, name=full, path=f"{path}.{inner.path}")


def _given(part: Layout, own: Layout) -> Layout:
    return part


class Graph:
    """The calls of a functional model, from which Keras's order of its layers follows.

    Calling it notes the call of a layer (or an input, or an operation without weights) and gives
    its output. Inputs stand as in Keras: positional ones first, keyword arguments by their names.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[str, int], tuple[Any, ...]] = {}
        self._counts: Counter[str] = Counter()

    def __call__(self, layer: str, *inputs: Any) -> tuple[str, int]:
        call = (layer, self._counts[layer])
        self._counts[layer] += 1
        self._calls[call] = inputs
        return call

    def order(self, *outputs: tuple[str, int]) -> tuple[str, ...]:
        """Names of the layers; `outputs` in the order of their names.

        Keras sorts layers by their distance from the outputs, the farthest first, and at one
        distance as it meets them on its way back.
        """
        met: dict[str, int] = {}
        done: dict[tuple[str, int], None] = {}  # each call after those before it
        waiting = [(output, False) for output in reversed(outputs)]
        while waiting:
            call, returning = waiting.pop()
            if returning:
                done.setdefault(call)
            elif call not in done:
                met.setdefault(call[0], len(met))
                waiting.append((call, True))
                waiting += [(before, False) for before in reversed(self._calls[call])]
        calls: Counter[tuple[str, int]] = Counter()
        layers: Counter[str] = Counter()
        for call in reversed(done):
            calls[call] = layers[call[0]] = max(calls[call], layers[call[0]])
            for before in self._calls[call]:
                calls[before] = max(calls[before], calls[call] + 1)
        return tuple(sorted(layers, key=lambda name: (-layers[name], met[name])))
