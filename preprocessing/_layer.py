"""What every tokenizer, packer, converter and preprocessor is: a typed constructor, its
configuration, and the files of a preset that hold it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ..backbones._configuration import (
    COMMON,
    PACKAGES,
    check_arguments,
    constructor_arguments,
    nearest,
    snake_case,
)
from ..presets import builtin
from ..presets.files import CONFIG
from ..presets.refusals import naming
from ..presets.sources import PresetSource, open_preset
from ..presets.writing import write_files

LayerType = TypeVar("LayerType", bound="PreprocessingLayer")
MAX_CONFIG_BYTES = 16 * 1024**2  # RWKV's has its vocabulary
OWN = "keras_hub_torch"  # beside Keras's `config`, which has no place for it


class Checked(type):
    """A class whose arguments are compared with the constructor's types."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        names = [name for name, p in constructor_arguments(cls).items() if p.kind is not KEYWORD]
        check_arguments(cls, {**dict(zip(names, args)), **kwargs})
        return super().__call__(*args, **kwargs)


KEYWORD = inspect.Parameter.KEYWORD_ONLY


class PreprocessingLayer(metaclass=Checked):
    """A step between raw data and a backbone. Every argument is also an attribute.

    Args:
        name: as in Keras; the class's name in snake case by default.
        trainable: without effect, as in Keras.
        dtype: of what it returns.
    """

    # Where KerasHub defines the class.
    keras_module: ClassVar[str | None] = None
    # The file of a preset that holds it, where it is not within another one's.
    config_file: str = ""
    # Arguments that no configuration has; of those in `lost` KerasHub's have none, either, and
    # here they are written where they are not the default. Of those in `own` KerasHub knows
    # nothing, so that in files they stand beside its configuration.
    unsaved: ClassVar[Sequence[str]] = ()
    lost: ClassVar[Sequence[str]] = ()
    own: ClassVar[Sequence[str]] = ()

    def __init__(
        self, *, name: str | None = None, trainable: bool = True, dtype: Any = None
    ) -> None:
        self.name = name or snake_case(type(self).__name__)
        self.trainable = trainable
        self.dtype = dtype_name(dtype) or "float32"

    # Configuration

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as Keras would save them."""
        config: dict[str, Any] = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": {
                "module": "keras",
                "class_name": "DTypePolicy",
                "config": {"name": self.dtype},
                "registered_name": None,
            },
        }
        parts = self.parts()
        config |= {name: part.serialize() for name, part in parts.items()}
        for name, parameter in _arguments(type(self)).items():
            if name in (*COMMON, *self.unsaved, *PARTS):
                continue
            value = getattr(self, name)
            if name not in (*self.lost, *self.own) or value != parameter.default:
                config[name] = list(value) if isinstance(value, (tuple, list)) else value
        return config

    @classmethod
    def from_config(cls: type[LayerType], config: Mapping[str, Any]) -> LayerType:
        """The layer of what `get_config` gave; layers within it may be serialized."""
        return cls(**{name: _deserialized(value, name) for name, value in config.items()})

    def serialize(self) -> dict[str, Any]:
        """The object that Keras writes for it."""
        config = self.get_config()
        own = {name: config.pop(name) for name in self.own if name in config}
        return {
            "module": self.keras_module,
            "class_name": type(self).__name__,
            "config": config,
            "registered_name": f"keras_hub>{type(self).__name__}",
            **({OWN: own} if own else {}),
        }

    def parts(self) -> dict[str, PreprocessingLayer]:
        """The layers that it was built of, by the names of the arguments."""
        given = {name: getattr(self, name, None) for name in PARTS}
        return {k: part for k, part in given.items() if isinstance(part, PreprocessingLayer)}

    # Presets

    @classmethod
    def from_preset(
        cls: type[LayerType],
        preset: str | os.PathLike[str],
        config_file: str | None = None,
        **kwargs: Any,
    ) -> LayerType:
        """Build what a preset holds.

        Args:
            preset: as of `Backbone.from_preset`.
            config_file: of the preset, where it has several of the kind.
            kwargs: arguments that take the place of the preset's.

        Raises:
            FileNotFoundError: the preset has no such file.
            ValueError: it holds something else, or nothing that can be used.
        """
        with naming(str(preset)):
            source = open_preset(preset)
            return source.consistently(
                lambda: cls.load(source, config_file or cls.config_file, kwargs)
            )

    @classmethod
    def load(
        cls: type[LayerType], source: PresetSource, config_file: str, overrides: Mapping[str, Any]
    ) -> LayerType:
        """What the file of a preset describes, with its assets."""
        config = source.json(config_file, MAX_CONFIG_BYTES)
        found = cls.found_in(config, config_file, source)
        layer = found.from_config({**arguments_in(config), **overrides})
        layer.read_assets(source)
        return layer

    @classmethod
    def found_in(
        cls: type[LayerType], config: Mapping[str, Any], config_file: str, source: PresetSource
    ) -> type[LayerType]:
        """The class, one of this kind, that the file of a preset is of."""
        return class_of(config, f"{source.handle}'s {config_file}", cls)

    def read_assets(self, source: PresetSource) -> None:
        """Read what is no part of the configuration, vocabularies say."""
        for part in self.parts().values():
            part.read_assets(source)

    def save_to_preset(self, preset_dir: str | os.PathLike[str]) -> None:
        """Write its files, in one step, beside what else is in the folder.

        Raises:
            OSError: the folder cannot be written.
        """
        write_files(Path(os.path.expanduser(preset_dir)), dict(self.files()))

    def files(self) -> Iterator[tuple[str, bytes | dict[str, Any]]]:
        """Contents of the files that it is saved in, by their names."""
        if self.config_file:
            yield self.config_file, self.serialize()
        for part in self.parts().values():
            yield from part.files()


# Layers within layers, in the order in which Keras writes them.
PARTS = (
    *("tokenizer", "audio_converter", "image_converter", "video_converter"),
    *("clip_l_preprocessor", "clip_g_preprocessor", "t5_preprocessor"),
)


def dtype_name(dtype: Any) -> str | None:
    """Name of a dtype given as a name, as PyTorch's or as a serialized policy."""
    if isinstance(dtype, Mapping):
        inner = dtype.get("config")
        dtype = inner.get("name") if isinstance(inner, Mapping) else None
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _arguments(cls: type[PreprocessingLayer]) -> dict[str, inspect.Parameter]:
    """What the constructor takes, those of base classes first, as in Keras's configurations."""
    found: dict[str, inspect.Parameter] = {}
    known = constructor_arguments(cls)
    for base in reversed(cls.__mro__):
        own = inspect.signature(base.__dict__["__init__"]) if "__init__" in vars(base) else None
        for name in own.parameters if own is not None else ():
            if name in known:
                found[name] = known[name]
    return found


# Classes by name


@functools.cache
def public_classes() -> dict[str, type[PreprocessingLayer]]:
    """All classes of this room by name, aliases included. Its modules are found, not listed."""
    found: dict[str, type[PreprocessingLayer]] = {}
    package = __package__
    for module in pkgutil.walk_packages([str(Path(__file__).parent)], f"{package}."):
        if "._" in module.name.removeprefix(package):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            own = isinstance(value, type) and value.__module__ == module.name
            if own and issubclass(value, PreprocessingLayer) and not name.startswith("_"):
                found[name] = value
    return found


def find_class(name: str, base: type[LayerType]) -> type[LayerType] | None:
    """The class of that name and base."""
    found = public_classes().get(name)
    return found if found is not None and issubclass(found, base) else None


def class_of(config: Mapping[str, Any], where: str, base: type[LayerType]) -> type[LayerType]:
    """The class that a serialized layer is of.

    Raises:
        ValueError: no serialized layer, of a class that is not known, or of another one.
    """
    registered = config.get("registered_name") or config.get("class_name")
    if not isinstance(registered, str) or not isinstance(config.get("config"), dict):
        raise ValueError(
            f"{where} is not Keras's: it has no class (registered_name and config). A file of the "
            "same name that transformers wrote cannot be read here."
        )
    package, _, name = registered.rpartition(">")
    if name == base.__name__:
        return base
    found = find_class(name, PreprocessingLayer) if package in PACKAGES else None
    if found is None:
        near = nearest(name, public_classes())
        hint = f" The nearest is {near}." if near else ""
        raise ValueError(f"{where} is of the unknown class {registered!r}.{hint}")
    if not issubclass(found, base):
        raise ValueError(f"{where} is a {name}, not a {base.__name__}.")
    return found


def backbone_of(source: PresetSource) -> str:
    """Name of the backbone's class of a Keras preset."""
    config = source.json(CONFIG)
    registered = config.get("registered_name") or config.get("class_name")
    return builtin.canonical_name(str(registered).rpartition(">")[2])


def _deserialized(value: Any, name: str) -> Any:
    """An argument, layers built of their configurations."""
    if name in PARTS and isinstance(value, Mapping):
        found = class_of(value, f"Argument {name!r}", PreprocessingLayer)
        return found.from_config(arguments_in(value))
    return value


def arguments_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments of a serialized layer."""
    own = config.get(OWN)
    return {**config["config"], **(own if isinstance(own, Mapping) else {})}
