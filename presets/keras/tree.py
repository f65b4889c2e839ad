"""A model seen as Keras sees it: layers, their paths, names, variables and indexes."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from ...backbones._configuration import snake_case
from ...backbones._model import Model
from ...backbones.layers.convolution import Convolution, SeparableConv2D
from ...backbones.layers.core import Projection
from ...backbones.layers.layout import (
    Kind,
    Layout,
    beside,
    class_name_of,
    flattened,
    keras_children,
    layout_of,
)
from ...backbones.layers.quantized import QuantizedDense

Reshape = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Variable:
    """One dataset of a weight file.

    Attributes:
        name: of the parameter or buffer within its module.
        key: the same within the backbone, as in `state_dict()`.
        shape: in the file.
        from_keras, to_keras: between the file's arrangement and ours; views where possible.
    """

    module: nn.Module
    name: str
    shape: tuple[int, ...]
    from_keras: Reshape
    to_keras: Reshape
    key: str = ""

    @property
    def tensor(self) -> torch.Tensor:
        return getattr(self.module, self.name)

    @property
    def saved(self) -> torch.Tensor:
        """What a file holds: adapters are merged into it."""
        merged = getattr(self.module, "merged_tensor", None)
        return self.to_keras(self.tensor if merged is None else merged(self.name))


@dataclass
class Layer:
    """A Keras layer that holds weights; children stand in the order of creation.

    Attributes:
        path: in files.
        key: path of the module within the model.
    """

    path: str
    name: str
    class_name: str
    layout: Layout
    key: str = ""
    attribute: str = ""
    variables: list[Variable] = field(default_factory=list)
    children: list[Layer] = field(default_factory=list)

    def walk(self) -> Iterator[Layer]:
        """This layer and those in it, in the order in which Keras saves them."""
        yield self
        children = self.children
        if self.layout.kind is Kind.MODEL:
            children = sorted(children, key=lambda c: min(c.attribute, "layers"))
        elif self.layout.kind is Kind.GRAPH:
            children = sorted(children, key=lambda c: c.attribute if c.layout.rest else "")
        elif self.layout.kind is Kind.LAYER:  # attributes by name, private ones last
            children = sorted(children, key=lambda c: (c.attribute.startswith("_"), c.attribute))
        for child in children:
            yield from child.walk()


def keras_tree(model: Model, layout: Layout | None = None) -> Layer:
    """The Keras layers of a model that hold weights."""
    layout = layout or layout_of(model)
    root = Layer("", model.name, class_name_of(model), layout)
    _fill(root, model, "")
    names = Counter(layout.numbered)
    made = {path: i for i, (path, _) in enumerate(model.named_modules())}
    _number(root, names, made, called=False)
    _number(root, names, made, called=True)
    return root


def keras_variables(model: Model) -> dict[str, Variable]:
    """Dataset path → variable, in the order in which Keras saves them."""
    return {
        f"{layer.path}/vars/{i}".lstrip("/"): variable
        for layer in keras_tree(model).walk()
        for i, variable in enumerate(layer.variables)
    }


def flat_layers(model: Model, order: str = "torch") -> list[Layer]:
    """Layers as Keras flattens them: parents first, the last-made child first.

    `order` is the backend whose Keras counts: on `jax` (and TensorFlow) a model lists its layers
    as they were assigned to attributes, on `torch` as they stand in the graph.
    """
    layout = layout_of(model)
    made = {path: i for i, (path, _) in enumerate(model.named_modules())}
    as_assigned = order != "torch" and bool(layout.assigned)
    if as_assigned:  # where layers are attributes, before they are in a graph or beside it
        kept = (view for view in layout.inside.items() if view[1] not in (flattened, beside))
        layout = replace(layout, inside=dict(kept))

    def children(layer: Layer) -> list[Layer]:
        assigned = layer.layout.assigned if as_assigned else ()
        if not assigned:
            return layer.children
        return [
            one
            for attribute in assigned
            for one in sorted(_held(layer, attribute), key=lambda one: made[one.key])
        ]

    root = keras_tree(model, layout)
    flat: list[Layer] = []
    waiting = list(reversed(children(root)))
    # What is taken apart is an attribute, too, with what no part has.
    waiting.sort(key=lambda layer: not layer.layout.rest)
    met: set[int] = set()
    while waiting:
        layer = waiting.pop()
        if id(layer) not in met:
            met.add(id(layer))
            flat.append(layer)
            waiting.extend(children(layer))
    return flat + _emptied(model, root)


def _held(layer: Layer, attribute: str) -> list[Layer]:
    """What an attribute holds; one with dots is that of a layer within."""
    owner, _, name = attribute.rpartition(".")
    owners = _held(layer, owner) if owner else [layer]
    return [child for one in owners for child in one.children if child.attribute == name]


def _emptied(model: Model, root: Layer) -> list[Layer]:
    """Models within the model all of whose layers are counted as others'; they themselves count."""
    kept = {layer.attribute for layer in root.children if layer.layout.rest}
    found = []
    for key, view in root.layout.inside.items():
        child = getattr(model, key)
        if not isinstance(child, Model):  # a layer of which nothing but its parts is in the graph
            continue
        own = layout_of(child)
        seen = view(own)
        taken = not isinstance(seen, Layout) or replace(seen, kind=own.kind) != own
        if taken and key not in kept and view is not beside:
            found.append(Layer("", child.keras_name, class_name_of(child), own))
    return found


def _fill(layer: Layer, module: nn.Module, key: str) -> None:
    """Add variables and children to a layer whose module has the given prefix of keys."""
    layer.variables = variables_of(module)
    for variable in layer.variables:
        variable.key = f"{key}{variable.key or variable.name}"
    kind = layer.layout.kind
    children = keras_children(module, layer.layout, layer.name)
    repeated = Counter(child.attribute for child in children)
    taken: Counter[tuple[str, str]] = Counter()
    for child in children:
        late = kind is Kind.MODEL and child.attribute > "layers"
        ours = layer.layout.only is None or layer.layout.only(child.name)
        if not ours and not layer.layout.rest:
            continue
        if child.layout.rest:
            container = ""
        elif late or kind in (Kind.GRAPH, Kind.SEQUENTIAL):
            container = f"{layer.path}/layers"
        elif child.stacked or repeated[child.attribute] > 1:
            container = f"{layer.path}/{child.attribute}"
        else:
            container = ""
        path = f"{layer.path}/{child.attribute}"
        if container:
            number = snake_case(child.class_name)
            count = taken[container, number]
            taken[container, number] += 1
            path = f"{container}/{number}_{count}" if count else f"{container}/{number}"
        elif kind is Kind.MODEL:  # it is counted in `layers`, too
            taken[f"{layer.path}/layers", snake_case(child.class_name)] += 1
        if not ours:
            continue
        name = "" if child.unnamed else child.name
        inner = Layer(
            path.lstrip("/"),
            name,
            child.class_name,
            child.layout,
            f"{key}{child.path}",
            child.attribute,
        )
        _fill(inner, child.module, f"{inner.key}.")
        if inner.variables or inner.children:
            layer.children.append(inner)


def _number(
    layer: Layer, names: Counter[str], made: Mapping[str, int], called: bool, on_call: bool = False
) -> None:
    """Name the unnamed (`dense`, `dense_1`), those made in constructors before those made in a
    layer's first call.

    Args:
        made: path of a module → its place among those of the model as they were made.
    """
    on_call = on_call or layer.layout.built_on_call
    children = layer.children
    if layer.layout.kind is Kind.GRAPH:
        children = sorted(children, key=lambda child: made[child.key])
    for child in children:
        if not child.name and on_call == called:
            prefix = snake_case(child.class_name)
            child.name = f"{prefix}_{names[prefix]}" if names[prefix] else prefix
            names[prefix] += 1
        _number(child, names, made, called, on_call)


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@functools.singledispatch
def variables_of(module: nn.Module) -> list[Variable]:
    """The variables a layer holds itself, in Keras's order: parameters, then buffers."""
    tensors = {**module._parameters, **module._buffers}
    left_out = {*module._non_persistent_buffers_set, "lora_kernel_a", "lora_kernel_b"}
    shapes = getattr(module, "keras_shapes", {})
    return [
        _reshaped(module, name, tensor, shapes[name])
        if name in shapes
        else Variable(module, name, tuple(tensor.shape), _same, _same)
        for name, tensor in tensors.items()
        if tensor is not None and name not in left_out
    ]


def _reshaped(
    module: nn.Module, name: str, tensor: torch.Tensor, shape: tuple[int, ...]
) -> Variable:
    ours = tensor.shape
    return Variable(
        module, name, shape, lambda value: value.reshape(ours), lambda value: value.reshape(shape)
    )


@variables_of.register
def _(module: Projection) -> list[Variable]:
    kernel = Variable(module, "weight", module.kernel_shape, module.from_kernel, module.to_kernel)
    if module.bias is None:
        return [kernel]
    shape = module.bias_shape
    return [
        kernel,
        Variable(module, "bias", shape, torch.flatten, lambda bias: bias.reshape(shape)),
    ]


@variables_of.register
def _(module: QuantizedDense) -> list[Variable]:
    shape = (1,) * module.batch_axes + module.bias_shape
    scale = Variable(
        module, "kernel_scale", shape, torch.flatten, lambda scale: scale.reshape(shape)
    )
    return [*variables_of.dispatch(Projection)(module), scale]


@variables_of.register
def _(module: Convolution) -> list[Variable]:
    kernel = Variable(
        module,
        "weight",
        tuple(module.to_kernel(module.weight).shape),
        lambda kernel: module.from_kernel(kernel).contiguous(),  # or each call would do it
        module.to_kernel,
    )
    if module.bias is None:
        return [kernel]
    return [kernel, Variable(module, "bias", (module.out_channels,), _same, _same)]


@variables_of.register
def _(module: SeparableConv2D) -> list[Variable]:
    return [
        replace(variable, key=f"{path}.{variable.name}")
        for path, child in module.named_children()
        for variable in variables_of(child)
    ]
