"""Imports run one way: what stands below knows nothing of what stands above it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from keras_hub_torch.backbones._model import Model
from keras_hub_torch.backbones._registry import families, public_classes

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = ("tests", "benchmarks", "examples", "build", "setup")
# From below upwards; a room may import those before it, and rooms of one row not each other.
FLOORS = (
    ("backbones.layers",),
    ("backbones",),
    ("presets",),
    ("lora", "preprocessing", "distributed", "quantizers"),
    ("generation",),
    ("", "__main__", "cli", "layers", "models"),  # the package itself is ""
)
# Their verbs go up, once they are called.
VERBS = ("backbones._backbone", "backbones._drafter")


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    within_function: bool


@functools.cache
def modules() -> dict[str, ast.Module]:
    """The package's modules by name, without the package's own."""
    found = {}
    for path in ROOT.glob("**/*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0].startswith(".") or parts[0] in ELSEWHERE:
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


@functools.cache
def imports() -> tuple[Import, ...]:
    """All imports within the package, those in functions and for type checkers included."""
    return tuple(one for name in modules() for one in _imports(name, modules()[name], False))


def _imports(importer: str, node: ast.AST, within: bool) -> Iterator[Import]:
    if isinstance(node, ast.ImportFrom):
        yield from (Import(importer, name, within) for name in _names(importer, node))
    elif isinstance(node, ast.Import):
        assert not any(alias.name.startswith("keras_hub_torch") for alias in node.names), importer
    within = within or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        yield from _imports(importer, child, within)


def _names(importer: str, node: ast.ImportFrom) -> set[str]:
    """The modules that a `from … import …` reads."""
    if not node.level:
        assert not (node.module or "").startswith("keras_hub_torch"), importer
        return set()
    parts = importer.split(".") if importer else []
    if not (ROOT.joinpath(*parts) / "__init__.py").is_file():
        parts = parts[:-1]
    parts = parts[: len(parts) - node.level + 1] + (node.module or "").split(".")
    package = ".".join(filter(None, parts))
    inner = {f"{package}.{alias.name}".strip(".") for alias in node.names}
    found = {name if name in modules() else package for name in inner}
    assert found <= modules().keys(), found
    return found


def is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def room_of(module: str) -> tuple[int, str]:
    """Floor and room of a module; the narrowest that fits."""
    fitting = [
        (floor, room) for floor, rooms in enumerate(FLOORS) for room in rooms if is_in(module, room)
    ]
    assert fitting, f"{module} is in no room"
    return max(fitting, key=lambda item: len(item[1]))


def test_imports_between_rooms_run_one_way() -> None:
    upward = []
    for one in imports():
        (floor, room), (other_floor, other) = room_of(one.importer), room_of(one.imported)
        is_verb = one.importer in VERBS and one.within_function
        if room != other and other_floor >= floor and floor + 1 < len(FLOORS) and not is_verb:
            upward.append(f"{one.importer} imports {one.imported}")
    assert not upward, "\n".join(upward)


def family_of(module: str) -> str:
    """`backbones.gemma3.vision` → `gemma3`, and nothing for machinery and other rooms."""
    room, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    return name if room == "backbones" and name in families() else ""


def test_families_know_no_others() -> None:
    """Nor does what they share, in modules that begin with an underscore."""
    registry = "backbones._registry"
    foreign = [
        f"{one.importer} imports {one.imported}"
        for one in imports()
        if is_in(one.importer, "backbones") and one.importer != registry
        if family_of(one.imported) not in ("", family_of(one.importer), *bases_of(one.importer))
        or (family_of(one.importer) and one.imported == registry)
    ]
    assert not foreign, "\n".join(foreign)


def bases_of(module: str) -> set[str]:
    """The families that a family's public classes are subclasses of, as Llama 3 of Llama."""
    return {
        family_of(base.__module__.partition(".")[2])
        for cls in public_classes(Model).values()
        for base in cls.__mro__
        if family_of(cls.__module__.partition(".")[2]) == family_of(module) != ""
    }


def test_no_module_waits_for_itself() -> None:
    """No circle of imports, not even of those that a function or a type checker makes."""
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for one in imports():
        if one.importer not in VERBS or not one.within_function:
            graph[one.importer].add(one.imported)
    circles = [sorted(circle) for circle in _circles(graph)]
    assert not circles, "\n".join(map(" <-> ".join, circles))


def _circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The sets of modules that reach each other."""
    reached = {name: _reached(graph, name) for name in graph}
    found: list[set[str]] = []
    for name in graph:
        circle = {other for other in reached[name] if name in reached[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph[name]
    return found


def test_families_touch_no_underscore_names() -> None:
    """Of the model: what a family's own class defines, it may call."""
    touched = []
    for name, tree in modules().items():
        if not family_of(name):
            continue
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        own |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        }
        touched += [
            f"{name}:{node.lineno} {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and node.attr not in own
        ]
    assert not touched, "\n".join(touched)


@pytest.mark.parametrize("family", families())
def test_every_family_has_a_public_class(family: str) -> None:
    """So that helper modules are none."""
    classes = public_classes(Model).values()
    assert any(family_of(cls.__module__.partition(".")[2]) == family for cls in classes)


@pytest.mark.parametrize("room", ["layers", "models", "samplers", "tokenizers"])
def test_names_of_keras_hub_are_modules(room: str) -> None:
    """For every form of `import`."""
    name = {"layers": "StartEndPacker", "models": "BertBackbone", "samplers": "TopKSampler"}
    one = name.get(room, "BertTokenizer")
    found: dict[str, object] = {}
    exec(
        f"import keras_hub_torch, keras_hub_torch.{room}, keras_hub_torch.{room} as a\n"
        f"from keras_hub_torch import {room} as b\n"
        f"from keras_hub_torch.{room} import {one}\n"
        f"from keras_hub_torch.{room} import *\n"
        f"same = a is b is keras_hub_torch.{room} and a.{one} is {one}",
        found,
    )
    assert found["same"]
    assert one in dir(found["a"])
    with pytest.raises(ImportError, match="NoSuch"):
        exec(f"from keras_hub_torch.{room} import NoSuch")
