"""What KerasHub's registry says about its backbones and built-in presets: facts in `builtin.json`.

`tests/make_builtin.py` writes that file from an installed KerasHub, and adds what a nightly release
says that the next version brings.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Collection
from importlib import resources
from typing import Any, TypedDict


class _Backbone(TypedDict):
    module: str
    tasks: list[str]


class _LaterBackbone(_Backbone):
    keras_hub: str  # the version that brings it


# Functional syntax, because `class` cannot be a field name in the other one.
_Preset = TypedDict("_Preset", {"class": str, "handle": str, "parameters": "int | None"})


class _LaterPreset(_Preset):
    keras_hub: str


class _Builtin(TypedDict):
    keras_hub: str
    aliases: dict[str, str]
    backbones: dict[str, _Backbone]
    others: list[str]
    presets: dict[str, _Preset]
    task_presets: dict[str, _Preset]
    later_backbones: dict[str, _LaterBackbone]
    later_others: list[str]
    later_presets: dict[str, _LaterPreset]


@functools.cache
def _builtin() -> _Builtin:
    text = resources.files(__package__).joinpath("builtin.json").read_text(encoding="utf-8")
    builtin: _Builtin = json.loads(text)
    return builtin


@functools.cache
def _presets() -> dict[str, _Preset]:
    # Task presets (SegFormer's) are whole models: a backbone loads from them, but no
    # `Backbone.presets` lists them.
    known = _builtin()
    return {**known["presets"], **known["task_presets"], **known["later_presets"]}


@functools.cache
def _backbones() -> dict[str, _Backbone]:
    return {**_builtin()["backbones"], **_builtin()["later_backbones"]}


def presets_of(class_names: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """The built-in presets of these backbone classes, or of all, as `Backbone.presets` shows them.

    A class does not bring its subclasses along: name them too. Metadata of those that are not in
    the KerasHub that this package follows have the version that brings them, `keras_hub`.
    """
    known = {**_builtin()["presets"], **_builtin()["later_presets"]}
    return {
        preset_id: {
            "kaggle_handle": preset["handle"],
            "metadata": {"params": preset["parameters"], **_since(preset_id)},
        }
        for preset_id, preset in known.items()
        if class_names is None or preset["class"] in class_names
    }


def _since(preset_id: str) -> dict[str, str]:
    version = version_of(preset_id)
    return {} if version is None else {"keras_hub": version}


def version_of(preset_id: str) -> str | None:
    """The version of KerasHub that brings a preset, if it is a later one than the one followed."""
    later = _builtin()["later_presets"].get(preset_id)
    return None if later is None else later["keras_hub"]


def not_yet(preset: str) -> str:
    """What an error adds of a preset that KerasHub is only about to bring."""
    version = version_of(preset)
    if version is None:
        return ""
    return (
        f" It comes with KerasHub {version}: before that is out it may not be there. Once it is, "
        "try again, with a newer keras_hub_torch if its handle has changed."
    )


def newest() -> str:
    """The last version of KerasHub whose presets are known."""
    later = (preset["keras_hub"] for preset in _builtin()["later_presets"].values())
    known = (_builtin()["keras_hub"], *later)
    return max(known, key=lambda version: [int(part) for part in version.split(".")])


@functools.cache
def available() -> frozenset[str]:
    """Names of the classes of this package, from its stub: no family is imported."""
    package = __package__.rpartition(".")[0]
    stub = resources.files(package).joinpath("models.pyi").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^(?:class )?(\w+)(?:\(| = )", stub, re.MULTILINE))


def class_of(preset_id: str) -> str | None:
    """Name of the backbone class of a built-in preset; None for an unknown id."""
    preset = _presets().get(preset_id)
    return None if preset is None else preset["class"]


def family_of(class_name: str) -> str:
    """KerasHub's folder of a backbone, `gpt2` of `GPT2Backbone`; empty if it has no such one."""
    return (keras_module(class_name) or "..").split(".")[-2]


def handle_of(preset_id: str) -> str | None:
    """`kaggle://` handle of a built-in preset; None for an unknown id."""
    preset = _presets().get(preset_id)
    return None if preset is None else preset["handle"]


def nearest(preset_id: str, n: int = 3) -> list[str]:
    """Up to `n` built-in ids that look like `preset_id`, the likeliest first."""
    return difflib.get_close_matches(preset_id, _presets(), n=n)


def canonical_name(class_name: str) -> str:
    """The name a class is saved under: `ESM2Backbone` is an alias of `ESMBackbone`."""
    return _builtin()["aliases"].get(class_name, class_name)


def keras_module(class_name: str) -> str | None:
    """Python module KerasHub writes into the config of a backbone; None if it has no such one."""
    backbone = _backbones().get(canonical_name(class_name))
    return None if backbone is None else backbone["module"]


def is_backbone(class_name: str) -> bool:
    """Whether presets of this class can be in KerasHub."""
    return bool(keras_module(class_name)) and class_name != "FeaturePyramidBackbone"


def is_other(name: str) -> bool:
    """Whether KerasHub has a task, preprocessor or tokenizer of this name."""
    return name in _builtin()["others"] or name in _builtin()["later_others"]


def tasks(class_name: str) -> list[str]:
    """The tasks KerasHub writes into `metadata.json` of this backbone, sorted."""
    backbone = _backbones().get(canonical_name(class_name))
    return [] if backbone is None else list(backbone["tasks"])
