"""Write `models.pyi`, by which type checkers and editors know what `models` finds when asked.

There each class is a subclass of itself with the constructor's arguments as attributes.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path

from keras_hub_torch import preprocessing
from keras_hub_torch.backbones._backbone import Backbone, FeaturePyramidBackbone
from keras_hub_torch.backbones._configuration import COMMON, constructor_arguments
from keras_hub_torch.backbones._drafter import Drafter
from keras_hub_torch.backbones._model import Component, Model
from keras_hub_torch.backbones._registry import public_classes
from keras_hub_torch.backbones.layers.activations import ActivationLike, serialize_activation

STUB = Path(__file__).resolve().parents[1] / "models.pyi"
BASES = (Model, Component, Backbone, FeaturePyramidBackbone)
HEADER = '''"""Written by `python -m tests.make_stubs`."""

from collections.abc import {}
from typing import Any

from .backbones._backbone import Backbone as Backbone
from .backbones._backbone import FeaturePyramidBackbone as FeaturePyramidBackbone
'''


def stub() -> str:
    """The text of `models.pyi`."""
    names = public_classes(Model)
    classes = {name: cls for name, cls in names.items() if name == cls.__name__}
    aliases = {name: cls for name, cls in names.items() if name not in classes}
    imports = sorted(
        f"from .{cls.__module__.partition('.')[2]} import {name} as _{name}\n"
        for name, cls in classes.items()
    )
    parts = list(imports)
    for name, cls in classes.items():
        bases = [f"_{name}", *(base.__name__ for base in cls.__bases__ if base in names.values())]
        parts.append(f"\nclass {name}({', '.join(bases)}):\n")
        assigned = _assigned(cls)
        for argument, parameter in constructor_arguments(cls).items():
            annotation = _annotation(parameter)
            # What a constructor assigns is known, and may be narrower than what it takes; that a
            # tower has attributes as well is known here alone.
            is_tower = not classes.keys().isdisjoint(re.findall(r"\w+", annotation))
            if argument not in COMMON and (is_tower or argument not in assigned):
                parts.append(f"    {argument}: {annotation}\n")
    parts += [f"\n{name} = {cls.__name__}\n" for name, cls in aliases.items()]
    text = "".join(parts)
    named = {**preprocessing.steps(), **public_classes(Drafter)}.items()
    steps = sorted(
        f"from .{cls.__module__.partition('.')[2]} import {name} as {name}\n"
        for name, cls in named
        if name == cls.__name__
    )
    # Another name in an import would be no public one.
    text += "".join(f"\n{name} = {cls.__name__}\n" for name, cls in named if name != cls.__name__)
    text = "".join(steps) + text
    used = [name for name in ("Callable", "Mapping", "Sequence") if re.search(rf"\b{name}\b", text)]
    return HEADER.format(", ".join(used)) + text


def _assigned(cls: type[Model]) -> set[str]:
    """Names of the attributes that the constructors of a family assign."""
    families = [base for base in cls.__mro__ if issubclass(base, Model) and base not in BASES]
    return {
        node.attr
        for family in families
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(family))))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def _annotation(parameter: inspect.Parameter) -> str:
    hint = parameter.annotation
    if hint == ActivationLike:  # serialized before it becomes an attribute
        return str(inspect.signature(serialize_activation).return_annotation)
    return re.sub(r"[\w.]+\.(?=\w)", "", inspect.formatannotation(hint))


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
