"""The layers of a backbone as a table for people and as a tree for programs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from ..backbones._model import Model
from ..backbones.layers.layout import Kind, Stack, class_name_of, layout_of
from .keras.tree import variables_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# A stack whose blocks are of more kinds than this is shown by structure, with ranges of sizes.
MAX_KINDS = 4


@dataclass
class LayerInfo:
    """A layer that holds weights, itself or in the layers within it.

    Attributes:
        name: Keras's, where Keras does not number the layer itself.
        attribute: name of the module within its parent.
        stack: the stack it is a block of.
        weights: shapes, as in a Keras file.
        parameters: number of weights, those of `layers` included.
    """

    name: str
    class_name: str
    attribute: str
    stack: str = ""
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: int = 0
    layers: list[LayerInfo] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "class": self.class_name,
            "weights": {name: list(shape) for name, shape in self.weights.items()},
            "parameters": self.parameters,
            "layers": [layer.to_json() for layer in self.layers],
        }


def layer_tree(backbone: Model) -> LayerInfo:
    """The layers of a backbone, without those that hold no weights."""
    return _layer(backbone, backbone.name, "", str)


def _layer(module: nn.Module, name: str, attribute: str, rename: Callable[[str], str]) -> LayerInfo:
    layer = LayerInfo(name, class_name_of(module), attribute)
    layer.weights = {v.key or v.name: v.shape for v in variables_of(module)}
    for key, parameter in module.named_parameters(recurse=False):  # adapters
        layer.weights.setdefault(key, tuple(parameter.shape))
    layer.parameters = sum(math.prod(shape) for shape in layer.weights.values())
    own = layout_of(module)
    names = {} if own.group is not None else own.names
    for key, child, stack in _children(module):
        full = rename(names.get(key, key).replace("{}", name))
        group = layout_of(child).group
        inner = _layer(child, full, key, str if group is None else _renaming(child, key, rename))
        inner.stack = stack
        if stack:
            inner.attribute = ""
        if inner.parameters:
            layer.layers.append(inner)
            layer.parameters += inner.parameters
    return layer


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, module, and the stack it is in, if any."""
    if layout_of(module).kind is Kind.LEAF:
        return
    for name, child in module.named_children():
        if isinstance(child, Stack):
            yield from _blocks(child, name)
        else:
            yield name, child, ""


def _blocks(stack: Stack, path: str) -> Iterator[tuple[str, nn.Module, str]]:
    for i, (name, block) in enumerate(zip(stack.names(), stack.children())):
        if isinstance(block, Stack):
            yield from _blocks(block, f"{path}.{i}")
        else:
            yield name, block, path


def _renaming(group: nn.Module, name: str, outer: Callable[[str], str]) -> Callable[[str], str]:
    """How the children of a group, which is no Keras layer, are called."""
    layout = layout_of(group)

    def rename(child: str) -> str:
        if child in layout.unnamed:
            return child
        child = layout.names.get(child, child)
        suffix = layout.attributes.get(child, child)
        return outer((layout.group or "").format(group=name, child=suffix))

    return rename


# The table


def print_summary(backbone: Model) -> None:
    """See `Backbone.summary`."""
    from rich.console import Console

    console = Console()
    console.print(summary_table(backbone, console))
    console.print(totals_line(backbone), highlight=False)


def summary_table(backbone: Model, console: Console) -> Table:
    """One row per layer; equal blocks of a stack share one."""
    from rich.measure import Measurement
    from rich.text import Text

    tree = layer_tree(backbone)
    title = f"{tree.class_name} {tree.name!r}"
    wide = _table(title, "Layer", "Class", "Weights", "Parameters")
    # On a narrow terminal class and weights share a column, which leaves the names whole.
    narrow = _table(title, "Layer", "Class and weights", "Parameters")
    rows = list(_rows([tree.layers], 0))
    if tree.weights:
        own = sum(math.prod(shape) for shape in tree.weights.values())
        rows.insert(0, (0, "(itself)", [replace(tree, parameters=own)], 1))
    for depth, name, same, count in rows:
        layer = Text("  " * depth + name)
        kind = Text(same[0].class_name, "cyan")
        weights = _weights([list(info.weights.values()) for info in same])
        times = f"{count} × " if count > 1 else ""
        numbers = times + _range([info.parameters for info in same], "{:,}")
        wide.add_row(layer, kind, weights, numbers)
        narrow.add_row(layer, Text.assemble(kind, " ", weights), numbers)
    unlimited = console.options.update(max_width=10_000)
    if Measurement.get(console, unlimited, wide).maximum <= console.width:
        return wide
    for column in (narrow.columns[0], narrow.columns[-1]):
        longest = max(len(str(cell)) for cell in (column.header, *column.cells))
        column.width = min(longest, console.width * 2 // 5)
    return narrow


def _table(title: str, *headers: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for header in headers[:-1]:
        table.add_column(header, overflow="fold")
    table.add_column(headers[-1], justify="right", no_wrap=True)
    return table


def totals(backbone: Model) -> dict[str, Any]:
    """Numbers of weights, bytes in memory, and dtype."""
    return {
        "parameters": backbone.count_params(),
        "trainable_parameters": sum(p.numel() for p in backbone.parameters() if p.requires_grad),
        "bytes": sum(tensor.numel() * tensor.itemsize for tensor in backbone.weights()),
        "dtype": backbone.dtype_policy.name,
    }


def totals_line(backbone: Model) -> str:
    """The numbers of weights and their bytes, for people."""
    from rich.filesize import decimal

    total = totals(backbone)
    return (
        f"{total['parameters']:,} parameters, {total['trainable_parameters']:,} trainable; "
        f"{decimal(total['bytes'])} in {total['dtype']}"
    )


Row = tuple[int, str, list[LayerInfo], int]


def _rows(parallel: list[list[LayerInfo]], depth: int) -> Iterator[Row]:
    """Depth, name, the layers it stands for, and how many they are in one parent.

    `parallel` are the children of parents that share a row; all have the same structure.
    """
    for places in _equal_blocks(parallel[0]):
        same = [children[place] for children in parallel for place in places]
        names = [_numbered([children[place].name for place in places]) for children in parallel]
        yield depth, _common(names), same, len(places)
        yield from _rows([layer.layers for layer in same], depth + 1)


def _equal_blocks(layers: list[LayerInfo]) -> Iterable[list[int]]:
    """Places of layers; those of equal blocks of a stack are together."""
    kinds: dict[str, set[Any]] = {}
    for layer in layers:
        kinds.setdefault(layer.stack, set()).add(_signature(layer, True))
    groups: dict[Any, list[int]] = {}
    for place, layer in enumerate(layers):
        signature = _signature(layer, len(kinds[layer.stack]) <= MAX_KINDS)
        key = (layer.stack, signature) if layer.stack else place
        groups.setdefault(key, []).append(place)
    return groups.values()


def _signature(layer: LayerInfo, sizes: bool) -> Any:
    """What equal layers have in common, with or without the sizes of their weights."""
    weights = tuple((name, shape if sizes else len(shape)) for name, shape in layer.weights.items())
    inner = tuple(_signature(child, sizes) for child in layer.layers)
    return layer.class_name, layer.attribute, weights, inner


def _numbered(names: list[str]) -> str:
    """`layer_0`, `layer_1`, `layer_2`, `layer_5` → `layer_0…2, 5`."""
    parts = [re.split(r"(\d+)", name) for name in names]
    different = [i for i, column in enumerate(zip(*parts)) if len(set(column)) > 1]
    if not different:
        return names[0]
    place = different[0]
    if not all(part[place].isdigit() for part in parts):  # letters
        return f"{names[0]}…{names[-1]}"
    runs: list[list[int]] = []
    for number in (int(part[place]) for part in parts):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ", ".join(f"{run[0]}…{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return "".join([*parts[0][:place], text, *parts[0][place + 1 :]])


def _common(names: list[str]) -> str:
    """`block0_conv`, `block1_conv` → `block*_conv`."""
    columns = zip(*(re.split(r"(\d+)", name) for name in names))
    return "".join(column[0] if len(set(column)) == 1 else "*" for column in columns)


def _weights(shapes: list[list[tuple[int, ...]]]) -> str:
    """Shapes of a layer's weights; of several layers, with ranges: `3×3×64…256 + 64…256`."""
    texts = ["×".join(_range(list(axis)) for axis in zip(*column)) for column in zip(*shapes)]
    counts = {text: texts.count(text) for text in texts}
    return " + ".join(
        text or "1" if count == 1 else f"{count} · {text or '1'}" for text, count in counts.items()
    )


def _range(numbers: list[int], form: str = "{}") -> str:
    least, most = form.format(min(numbers)), form.format(max(numbers))
    return least if least == most else f"{least}…{most}"
