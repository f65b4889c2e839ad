"""What checkpoints of transformers and timm say of how pixels and sound are made."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..presets.checkpoints import TIMM, TRANSFORMERS, dialect_of
from ..presets.checkpoints.dialect import find_table
from ..presets.files import CONFIG
from ..presets.sources import PresetSource

PROCESSOR = "processor_config.json"
PREPROCESSOR = "preprocessor_config.json"
# Kinds of converters → what transformers calls them in `processor_config.json`, and the file in
# which they were before there was that one.
PLACES = {
    "image_converter": ("image_processor", PREPROCESSOR),
    "audio_converter": ("feature_extractor", PREPROCESSOR),
    "video_converter": ("video_processor", "video_preprocessor_config.json"),
}
# What one of these says there, if the file is of its kind.
SAYS = {
    "image_converter": {"image_processor_type", "image_mean", "do_resize", "do_rescale"},
    "audio_converter": {"sampling_rate"},
}


class Checkpoint:
    """A checkpoint of transformers or timm, or neither.

    Attributes:
        source: that has its files.
        config: its config.json, empty where there is none.
    """

    def __init__(self, source: PresetSource) -> None:
        self.source = source
        self.config = source.json(CONFIG) if source.has(CONFIG) else {}
        self.dialect = dialect_of(self.config)

    @property
    def is_foreign(self) -> bool:
        """Whether it is of one of these libraries."""
        return self.dialect in (TRANSFORMERS, TIMM)

    @property
    def is_timm(self) -> bool:
        return self.dialect is TIMM

    @functools.cached_property
    def backbone(self) -> str:
        """Name of the class of the model."""
        assert self.dialect is not None
        kind = self.dialect.kind(self.config)
        return find_table(self.dialect, kind, self.source.handle).backbone.__name__

    def settings(self, kind: str) -> dict[str, Any]:
        """What transformers' processor of that kind of converter is set to.

        Raises:
            FileNotFoundError: the checkpoint does not say.
        """
        part, file = PLACES[kind]
        if self.source.has(PROCESSOR):
            found = self.source.json(PROCESSOR).get(part)
            if isinstance(found, dict):
                return found
        if self.source.has(file):
            found = self.source.json(file)
            if kind not in SAYS or SAYS[kind] & found.keys():
                return found
        raise FileNotFoundError(f"{self.source.handle} has neither {file} nor {part}.")


def setting(settings: Mapping[str, Any], name: str, *types: type) -> Any:
    """An entry, `None` where there is none.

    Raises:
        ValueError: it is of another type.
    """
    value = settings.get(name)
    wrong = isinstance(value, bool) and bool not in types
    if value is not None and (wrong or not isinstance(value, types)):
        raise ValueError(f"{name} of the preprocessor's configuration cannot be {value!r}.")
    return value


def differs(what: str, notes: Sequence[str]) -> None:
    """Warn of settings that the other side has no word for.

    Args:
        notes: each begins with the setting's name.
    """
    if notes:
        warnings.warn(f"{what} differs: {'; '.join(notes)}.", stacklevel=2)
