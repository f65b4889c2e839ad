"""Whether a preset's weights are those of its model, without reading them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..backbones._model import Model
from .building import construct
from .checkpoints import configuration, dialect_of
from .checkpoints.loading import plan
from .companions import companions
from .filling import check
from .loading import keras_config, keras_files
from .refusals import naming
from .sources import PresetSource, open_preset


@dataclass
class Verified:
    """A preset whose weights are exactly its model's.

    Attributes:
        model: on the meta device.
        files: how many tensors each holds.
        sizes: their bytes.
        drawn: weights that the files may lack, and lack.
        ignored: tensors that are known to be no part of a backbone.
        companions: files of tokenizers and the like that are beside it.
    """

    model: Model
    files: Counter[Path]
    sizes: dict[Path, int]
    drawn: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    companions: list[str] = field(default_factory=list)


def verify_preset(preset: str | os.PathLike[str], dequantize: bool = False) -> Verified:
    """Compare the weight files' headers with the model that the configuration describes.

    Data are read of tied weights only, where a checkpoint has copies that must be equal.

    Args:
        dequantize: whether quantized weights count as floats, as in `from_preset`.

    Raises:
        ValueError: broken preset, or weights that are not exactly the model's: all differences.
        OSError: files that are missing or cannot be fetched.
    """
    with naming(str(preset)):
        source = open_preset(preset)
        verified = source.consistently(lambda: _verify(source, dequantize))
        verified.companions = companions(source)
        return verified


def _verify(source: PresetSource, dequantize: bool) -> Verified:
    source, config = configuration(source)
    dialect = dialect_of(config)
    if dialect is not None:
        with plan(dialect, source, config, dequantize=dequantize) as planned:
            sizes = _sizes(planned.files)
            return Verified(planned.model, planned.files, sizes, planned.drawn, planned.ignored)
    found, arguments = keras_config(config, source.handle)
    model = construct(found, arguments, "meta")
    files = check(model, keras_files(source))
    return Verified(model, files, _sizes(files))


def _sizes(files: Iterable[Path]) -> dict[Path, int]:
    return {path: path.stat().st_size for path in files}
