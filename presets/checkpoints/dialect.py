"""How a library writes its checkpoints, and where the tables of its families are."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ...backbones._model import Model
from ..files import CONFIG, SAFETENSORS
from .files import weight_files
from .table import Table

if TYPE_CHECKING:
    from ..sources import PresetSource
    from .bindings import Plan


class Dialect(ABC):
    """How a library writes its checkpoints.

    Attributes:
        name: the library's.
        document: what the configuration is in.
        packages: where its tables are; every module there has a tuple `TABLES`.
        files: of the weights. The first that a checkpoint has is read, whole or in shards; the
            first of all is written.
    """

    name: ClassVar[str]
    document: ClassVar[str] = CONFIG
    packages: tuple[ModuleType, ...]
    files: ClassVar[tuple[str, ...]] = (SAFETENSORS, "pytorch_model.bin")

    @abstractmethod
    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Whether a config.json is of this dialect."""

    @abstractmethod
    def kind(self, config: Mapping[str, Any]) -> str:
        """The model's name in the tables."""

    @abstractmethod
    def title(self, config: Mapping[str, Any]) -> str:
        """The model's name for people."""

    @abstractmethod
    def ignores(self, key: str) -> bool:
        """Whether a key of config.json never changes what a backbone computes."""

    @abstractmethod
    def problems(
        self, config: Mapping[str, Any], unknown: Sequence[str], table: Table
    ) -> list[str]:
        """Why a config.json cannot be read; `unknown` are keys of which nothing is known."""

    def weights(self, source: PresetSource) -> list[Path]:
        """The weight files of a checkpoint in one folder, fetched if need be."""
        return weight_files(self.files, source)

    # Folders of a checkpoint in several that have documents alone.
    further: ClassVar[tuple[str, ...]] = ()

    def documents(self, plan: Plan, place: str) -> dict[str, Any]:
        """The JSON files of a folder."""
        return {CONFIG: plan.config}

    def quantization(self, config: Mapping[str, Any]) -> Any:
        """How the weights are quantized; `None` if they are not."""
        return None

    @abstractmethod
    def heading(self, table: Table, kind: str, dtype: torch.dtype) -> dict[str, Any]:
        """What config.json begins with, before the table's keys."""


def find_table(dialect: Dialect, kind: str, where: str) -> Table:
    """The table for a model.

    Raises:
        ValueError: there is none.
    """
    # The right module is most often the first; importing all of them takes a second.
    for table in _tables(dialect, lambda name: not kind.startswith(name)):
        if kind in table.kinds:
            return table
    known = sorted(kind for table in all_tables(dialect) for kind in table.kinds)
    raise ValueError(
        f"{where} is a {dialect.name} model of type {kind!r}, which cannot be read. Known: "
        f"{', '.join(known)}."
    )


def nearest_tables(dialect: Dialect, cls: type[Model]) -> Iterator[Table]:
    """All tables, those first whose module is named as the module or folder of the class."""
    families = [part for base in cls.__mro__ for part in base.__module__.split(".")]
    return _tables(
        dialect, lambda name: families.index(name) if name in families else len(families)
    )


def all_tables(dialect: Dialect) -> Iterator[Table]:
    """The tables of all families, each imported when its turn comes."""
    return _tables(dialect, lambda name: 0)


def _tables(dialect: Dialect, order: Callable[[str], int]) -> Iterator[Table]:
    """The tables by their modules' names in this order."""
    paths = [path for package in dialect.packages for path in _modules(package)]
    for path in sorted(paths, key=lambda path: order(path.rpartition(".")[2])):
        yield from importlib.import_module(path).TABLES


@functools.cache
def _modules(package: ModuleType) -> tuple[str, ...]:
    found = pkgutil.iter_modules(package.__path__)
    return tuple(f"{package.__name__}.{module.name}" for module in found)
