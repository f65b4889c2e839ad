"""How a module's children are laid out as Keras layers.

A module of this package stands where a Keras layer with weights stands and, unless its `Layout`
says otherwise, has the Keras layer's class name, and its children have the Keras layers' names
and attribute names. From this description everything Keras-specific is derived elsewhere: paths
in weight files, layer names, layer indexes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn


@dataclass(frozen=True)
class Layout:
    """What Keras calls a layer and its children, where it differs from the names here.

    Attributes:
        class_name: the Keras class; the Python class's name by default.
        attributes: child → attribute of the Keras layer that holds it (in a group: → name suffix).
        weightless: layer name → class of Keras layers that are no module here, because they hold
            no weights; `attributes` holds for them too.
        unnamed: children, weightless ones included, that Keras numbers itself (`dropout_3`).
        built_on_call: Keras creates the children on the first call and not in the constructor;
            it decides who gets which number.
        inputs: names of a backbone's input layers in the order of Keras's graph, `None` for
            an unnamed one; by default the parameters of `forward`.
        order: names of a backbone's layers, weightless ones included, in the order of Keras's
            graph; by default that of the children here.
        subclassed: a Keras model that is no graph: it has no input layers, and in files all that
            comes after `layers` in the alphabet stands in the list of that name.
        group: no Keras layer at all: the children belong to the parent and this gives their names,
            from `{group}` and `{child}`.
    """

    class_name: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    weightless: Mapping[str, str] = field(default_factory=dict)
    unnamed: Collection[str] = ()
    built_on_call: bool = False
    inputs: tuple[str | None, ...] | None = None
    order: Sequence[str] = ()
    subclassed: bool = False
    group: str | None = None


DEFAULT = Layout()


class Stack(nn.ModuleList):
    """Equal blocks in a row; the i-th is the Keras layer `name.format(i)`."""

    def __init__(self, name: str, blocks: Iterable[nn.Module]) -> None:
        super().__init__(blocks)
        self.name = name


@dataclass(frozen=True)
class Child:
    """A Keras layer inside another one: `module` is `None` for one without weights, and `stacked`
    says that its attribute is a list.
    """

    name: str
    attribute: str
    class_name: str
    unnamed: bool
    path: str
    module: nn.Module | None
    stacked: bool = False


def layout_of(module: nn.Module) -> Layout:
    return getattr(module, "layout", DEFAULT)


def class_name_of(module: nn.Module) -> str:
    # A wrapper (LoRA) answers for the layer whose place it has taken.
    return layout_of(module).class_name or getattr(module, "wrapped_class", type(module)).__name__


def keras_children(module: nn.Module) -> list[Child]:
    """Children in the order of creation, those with modules before weightless ones, or in that of
    the layout.
    """
    layout = layout_of(module)
    children: list[Child] = []
    for name, child in module.named_children():
        children += _lift(name, name, child, layout)
    for key, class_name in layout.weightless.items():
        attribute = layout.attributes.get(key, key)
        children.append(Child(key, attribute, class_name, key in layout.unnamed, "", None))
    if layout.order:
        children.sort(key=lambda child: layout.order.index(child.name))
    return children


def _lift(name: str, path: str, child: nn.Module, layout: Layout) -> Iterator[Child]:
    """One child; for a stack its blocks, for a group its own children."""
    attribute = layout.attributes.get(name, name)
    if isinstance(child, Stack):
        for i, block in enumerate(child):
            for lifted in _lift(child.name.format(i), f"{path}.{i}", block, layout):
                yield replace(lifted, attribute=attribute, stacked=True)
    elif (group := layout_of(child).group) is not None:
        suffixes = layout_of(child).attributes
        for inner in keras_children(child):
            suffix = suffixes.get(inner.name, inner.name)
            full = inner.name if inner.unnamed else group.format(group=name, child=suffix)
            yield replace(inner, name=full, path=f"{path}.{inner.path}")
    else:
        own = getattr(child, "name", name)  # that of a model within the model
        yield Child(own, attribute, class_name_of(child), name in layout.unnamed, path, child)
