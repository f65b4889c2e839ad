"""A backbone seen as Keras sees it: layers, their paths, names, variables and indexes."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from ...backbones.backbone import Backbone, snake_case
from ...backbones.layers.convolution import Convolution
from ...backbones.layers.core import Dense
from ...backbones.layers.layout import Child, class_name_of, keras_children, layout_of
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
    """A Keras layer; children stand in the order of creation."""

    path: str
    name: str
    class_name: str
    attribute: str = ""
    module: nn.Module | None = None
    variables: list[Variable] = field(default_factory=list)
    children: list[Layer] = field(default_factory=list)

    def walk(self) -> Iterator[Layer]:
        """This layer and those in it, in the order in which Keras saves them."""
        yield self
        children = self.children
        if self.module is not None and layout_of(self.module).subclassed:
            children = sorted(children, key=lambda c: min(c.attribute, "layers"))
        elif not isinstance(self.module, Backbone):  # attributes by name, private ones last
            children = sorted(children, key=lambda c: (c.attribute.startswith("_"), c.attribute))
        for child in children:
            yield from child.walk()

    def weighted(self) -> bool:
        return bool(self.variables) or any(child.weighted() for child in self.children)


def keras_tree(backbone: Backbone) -> Layer:
    """The Keras layers of a backbone."""
    root = Layer("", backbone.name, class_name_of(backbone), module=backbone)
    _fill(root, "")
    names: Counter[str] = Counter()
    _number(root, names, called=False)
    _number(root, names, called=True)
    return root


def keras_variables(backbone: Backbone) -> dict[str, Variable]:
    """Dataset path → variable, in the order in which Keras saves them."""
    return {
        f"{layer.path}/vars/{i}".lstrip("/"): variable
        for layer in keras_tree(backbone).walk()
        for i, variable in enumerate(layer.variables)
    }


def flat_layers(backbone: Backbone, order: str = "torch") -> list[Layer]:
    """Layers with weights as Keras flattens them: parents first, the last-made child first.

    `order` is the backend whose Keras counts: on `jax` (and TensorFlow) a model lists its layers
    as they were assigned to attributes, on `torch` as they stand in the graph.
    """
    root = keras_tree(backbone)
    top = root.children
    if order != "torch":
        assigned = getattr(backbone, "assigned_layers", None)
        if assigned is not None:
            top = sorted(top, key=lambda layer: assigned.index(layer.attribute))
    flat: list[Layer] = []
    waiting = list(reversed(top))
    while waiting:
        layer = waiting.pop()
        if layer.weighted():
            flat.append(layer)
            waiting.extend(layer.children)
    return flat


def _fill(layer: Layer, key: str) -> None:
    """Add variables and children to a layer whose module has the given prefix of keys."""
    module = layer.module
    if module is None:
        return
    layer.variables = variables_of(module)
    for variable in layer.variables:
        variable.key = f"{key}{variable.name}"
    children = list(keras_children(module))
    subclassed = layout_of(module).subclassed
    is_graph = isinstance(module, Backbone) and not subclassed
    if isinstance(module, Backbone) and is_graph:
        inputs = (name for name, spec in module._inputs.items() if spec.kind != "state")
        names = module.layout.inputs or tuple(inputs)
        children += [Child(name or "", "", "InputLayer", name is None, "", None) for name in names]
    repeated = Counter(child.attribute for child in children)
    taken: Counter[tuple[str, str]] = Counter()
    for child in children:
        number = snake_case(child.class_name)
        if is_graph or (subclassed and child.attribute > "layers"):
            container = f"{layer.path}/layers"
        elif child.stacked or repeated[child.attribute] > 1:
            container = f"{layer.path}/{child.attribute}"
        else:
            container = ""
        if container:
            count = taken[container, number]
            taken[container, number] += 1
            path = f"{container}/{number}_{count}" if count else f"{container}/{number}"
        else:
            path = f"{layer.path}/{child.attribute}"
        name = "" if child.unnamed else child.name
        inner = Layer(path.lstrip("/"), name, child.class_name, child.attribute, child.module)
        layer.children.append(inner)
        _fill(inner, f"{key}{child.path}.")


def _number(layer: Layer, names: Counter[str], called: bool, on_call: bool = False) -> None:
    """Name the unnamed (`dropout`, `dropout_1`), those made in constructors before those made in
    a layer's first call.
    """
    on_call = on_call or (layer.module is not None and layout_of(layer.module).built_on_call)
    for child in layer.children:
        if not child.name and on_call == called:
            prefix = snake_case(child.class_name)
            child.name = f"{prefix}_{names[prefix]}" if names[prefix] else prefix
            names[prefix] += 1
        _number(child, names, called, on_call)


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@functools.singledispatch
def variables_of(module: nn.Module) -> list[Variable]:
    """The variables a layer holds itself, in Keras's order: parameters, then buffers."""
    tensors = {**module._parameters, **module._buffers}
    left_out = {*module._non_persistent_buffers_set, "lora_kernel_a", "lora_kernel_b"}
    return [
        Variable(module, name, tuple(tensor.shape), _same, _same)
        for name, tensor in tensors.items()
        if tensor is not None and name not in left_out
    ]


@variables_of.register
def _(module: Dense) -> list[Variable]:
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
    return [*variables_of.dispatch(Dense)(module), scale]


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
