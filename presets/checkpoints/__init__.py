"""Checkpoints of other libraries: one language of tables, a dialect for each library.

The tables are in the folder of the library's name beside this one, a module for each family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...backbones._model import Model
from ..files import CONFIG
from ..sources import PresetSource
from .dialect import Dialect
from .diffusers import DIFFUSERS, in_pipeline
from .open_clip import OPEN_CLIP, open_clip_config
from .single_file import SINGLE_FILE, single_file
from .timm import TIMM
from .transformers import TRANSFORMERS

__all__ = (
    "DIALECTS",
    "DIFFUSERS",
    "OPEN_CLIP",
    "SINGLE_FILE",
    "TIMM",
    "TRANSFORMERS",
    "configuration",
    "dialect_in",
    "dialect_of",
)

DIALECTS: tuple[Dialect, ...] = (TRANSFORMERS, TIMM, DIFFUSERS, OPEN_CLIP, SINGLE_FILE)


def dialect_of(config: Mapping[str, Any]) -> Dialect | None:
    """The dialect of a config.json; `None` for Keras's own."""
    return next((dialect for dialect in DIALECTS if dialect.recognises(config)), None)


def configuration(
    source: PresetSource, cls: type[Model] = Model
) -> tuple[PresetSource, dict[str, Any]]:
    """What a preset says of its model, and where this model is.

    It is what config.json says, or OpenCLIP's beside timm's, which is of the images' tower alone;
    else what all folders of a pipeline say, or the one that a `cls` is in; else what OpenCLIP's
    says; else what the shapes in a single file say.

    Raises:
        FileNotFoundError: nothing of it is there.
        ValueError: a pipeline that has several such models.
    """
    try:
        config = source.json(CONFIG)
    except FileNotFoundError:
        found = in_pipeline(source, cls)
        if found is not None:
            return found
        said = open_clip_config(source) or single_file(source, cls)
        if said is None:
            raise
        return source, said
    return source, (TIMM.recognises(config) and open_clip_config(source)) or config


def dialect_in(source: PresetSource) -> Dialect | None:
    """The dialect of a preset; `None` for Keras's own. Raises as `configuration` does."""
    return dialect_of(configuration(source)[1])
