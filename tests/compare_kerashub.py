"""Compare the installed KerasHub with this package, and print what is new or different there:
classes, built-in presets, constructors, and of every case the paths and outputs.

    PYTHONPATH=NIGHTLY python -m tests.compare_kerashub [PART ...]

Arguments are parts of the ids of cases; by default it takes all, which are minutes.
"""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras_hub

from keras_hub_torch import models
from keras_hub_torch.backbones._model import Model
from keras_hub_torch.backbones._registry import public_classes
from keras_hub_torch.presets import builtin
from keras_hub_torch.presets.keras.tree import keras_variables

from . import oracle
from .cases import all_cases
from .make_builtin import registry
from .nightly import nightly_cases

OURS = {"dtype", "trainable", "name"}


def classes() -> Iterator[str]:
    here = public_classes(Model)
    theirs = keras_hub.models.Backbone
    there = {
        name
        for name, cls in inspect.getmembers(keras_hub.models, inspect.isclass)
        if issubclass(cls, theirs)
    }
    yield from (f"class {name}: only there" for name in sorted(there) if not hasattr(models, name))
    for name, cls in sorted(here.items()):  # parts of models are not exported there
        known = name in oracle.UNEXPORTED or hasattr(keras_hub.models, name)
        if issubclass(cls, models.Backbone) and not known:
            yield f"class {name}: only here"


def presets() -> Iterator[str]:
    """Handles and numbers of parameters, too."""
    found = registry()["presets"]
    known = {name: facts_of(name) for name in builtin.presets_of()}
    there = {
        name: (preset["class"], preset["handle"], preset["parameters"])
        for name, preset in found.items()
    }
    for name in sorted(known.keys() | there.keys()):
        if name not in there:
            yield f"preset {name}: only here"
        elif name not in known:
            yield f"preset {name}: only there, {there[name]}"
        elif known[name] != there[name]:
            yield f"preset {name}: {known[name]} here, {there[name]} there"


def facts_of(preset: str) -> tuple[Any, ...]:
    shown = builtin.presets_of()[preset]
    return builtin.class_of(preset), shown["kaggle_handle"], shown["metadata"]["params"]


def constructors() -> Iterator[str]:
    """Arguments, their order and default values."""
    for name, cls in sorted(public_classes(Model).items()):
        theirs = oracle.UNEXPORTED.get(name) or getattr(keras_hub.models, name, None)
        if theirs is None:
            continue
        here, there = arguments(cls), arguments(theirs)
        if [one for one in here if one in there] != [one for one in there if one in here]:
            yield f"{name}: order of arguments is {list(there)} there"
        for argument in sorted(here.keys() | there.keys()):
            if argument not in there:
                if argument not in OURS:
                    yield f"{name}({argument}): only here"
            elif argument not in here:
                yield f"{name}({argument}): only there"
            elif plain(here[argument]) != plain(there[argument]):
                ours, theirs = plain(here[argument]), plain(there[argument])
                yield f"{name}({argument}): {ours!r} here, {theirs!r} there"


def arguments(cls: type) -> dict[str, Any]:
    """Names and default values."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name != "self" and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }


def plain(value: Any) -> Any:
    """Classes and functions by their names."""
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__name__
    return list(value) if isinstance(value, tuple) else value


def computed(case: oracle.Case) -> Iterator[str]:
    """The paths and shapes of a case's weights, and its outputs."""
    try:
        theirs = oracle.keras_model(case)
        expected = oracle.keras_outputs(theirs, case.make_inputs())
    except Exception as error:
        yield f"case {case.id}: fails there: {said(error)}"
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield from read(case, oracle.preset_of(theirs, Path(folder)), expected)
        except AssertionError as error:
            yield f"case {case.id}: outputs differ: {str(error).splitlines()[0]}"
        except Exception as error:
            yield f"case {case.id}: fails here: {said(error)}"


def read(case: oracle.Case, preset: Path, expected: dict[str, np.ndarray]) -> Iterator[str]:
    there: dict[str, tuple[int, ...]] = {}
    with h5py.File(preset / "model.weights.h5") as file:
        file.visititems(lambda path, item: there.update(shape_of(path, item)))
    cls = public_classes(Model)[case.cls]
    given = {name: case.config[name] for name in cls.unsaved if name in case.config}
    model = models.Backbone.from_preset(preset, load_weights=False, **given)
    here = {
        path: tuple(variable.to_keras(variable.tensor).shape)
        for path, variable in keras_variables(model).items()
    }
    if here != there:
        paths = here.keys() | there.keys()
        wrong = [path for path in paths if here.get(path) != there.get(path)]
        yield f"case {case.id}: {len(wrong)} paths or shapes differ, as {min(wrong)}"
        return
    model = models.Backbone.from_preset(preset, **given)
    with torch.no_grad():
        oracle.assert_close(model(case.make_inputs()), expected)


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def shape_of(path: str, item: Any) -> dict[str, tuple[int, ...]]:
    return {path: tuple(item.shape)} if isinstance(item, h5py.Dataset) else {}


def cases(parts: Iterable[str] = ()) -> list[oracle.Case]:
    """Those of this package's tests whose class is there, with one of these parts in their id."""
    return [
        case
        for case in (*all_cases(), *nightly_cases())
        if case.cls in oracle.UNEXPORTED or hasattr(keras_hub.models, case.cls)
        if not parts or any(part in case.id for part in parts)
    ]


def differences(parts: Iterable[str] = ()) -> Iterator[str]:
    yield from classes()
    yield from presets()
    yield from constructors()
    for case in cases(parts):
        yield from computed(case)


if __name__ == "__main__":
    print(f"KerasHub {keras_hub.__version__}")
    for line in differences(sys.argv[1:]):
        print(line, flush=True)
