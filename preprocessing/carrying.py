"""Tokenizers, preprocessors and converters go along with a model that is saved."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..backbones._model import Model
from ..presets.checkpoints import TRANSFORMERS, dialect_of
from ..presets.checkpoints.engine import with_keys
from ..presets.companions import VOCABULARIES, companions, copy_companions, has_tokenizer
from ..presets.files import CONFIG
from ..presets.sources import PresetSource, open_preset
from ..presets.writing import write_into
from .seq_2_seq_lm import Seq2SeqLMPreprocessor
from .tokenizers.base import Tokenizer

GENERATION = "generation_config.json"
# The longest text that a model was made for, where it has no table of positions.
LENGTH = "max_position_embeddings"
# What a stranger's preset, or one that is gone, can cause.
EXPECTED = (ValueError, TypeError, OSError, NotImplementedError, ImportError)


def into_preset(model: Model, folder: Path, target: Path) -> list[str]:
    """Write what the preset that a model comes from has beside it, as Keras does.

    Where that cannot be had, a warning says so.

    Args:
        folder: that is written to.
        target: where it will be.
    """

    def carry(source: PresetSource) -> list[str]:
        if is_foreign(source):
            if not has_tokenizer(companions(source)):
                return []
            return write_into(folder, dict(Tokenizer.load(source, "", {}).files()))
        if is_same(source, target):
            return []
        return copy_companions(source, model.serialize(), folder)

    return _carried(model, carry)


def into_checkpoint(model: Model, folder: Path, target: Path) -> list[str]:
    """Write the tokenizer of the preset that a model comes from for transformers, and what text
    begins and ends with, also into config.json: engines take it from there, too, and where it says
    nothing they take that of some other model.

    Arguments and warnings are those of `into_preset`.
    """

    def carry(source: PresetSource) -> list[str]:
        files: dict[str, Any] = {}
        marks: dict[str, Any] = {}
        is_there = is_foreign(source) and is_same(source, target)
        if not is_there and has_tokenizer(companions(source)):
            tokenizer = Tokenizer.load(source, Tokenizer.config_file, {})
            files = dict(tokenizer.to_transformers())
            if model.cache_shapes:
                marks = generation_config(model, tokenizer)
                files[GENERATION] = marks
        if is_foreign(source):
            if GENERATION in files and source.has(GENERATION):
                files[GENERATION] = {**marks, **source.json(GENERATION)}
            marks = {**marks, **kept(source.json(CONFIG))}
        path = folder / CONFIG
        config = json.loads(path.read_text())
        # Where there is a token for padding alone transformers never trains it.
        further = {k: v for k, v in marks.items() if k != "pad_token_id" and k not in config}
        further |= {
            k: v
            for k, v in marks.items()
            if k == LENGTH or ("." in k and k.partition(".")[0] in config)
        }
        path.write_text(json.dumps(with_keys(TRANSFORMERS, config, further), indent=2))
        return write_into(folder, files)

    carried = _carried(model, carry)
    reads_text = any(spec.kind == "ids" for spec in model.input_specs.values())
    there = any((target / name).exists() for name in VOCABULARIES)
    if reads_text and not carried and not there:
        warnings.warn(
            f"No tokenizer goes along with this {model.class_name}, and where there is none "
            "AutoTokenizer makes one up that knows no words. Copy that of the model's origin.",
            stacklevel=2,
        )
    return carried


def generation_config(model: Model, tokenizer: Tokenizer) -> dict[str, Any]:
    """What transformers begins and ends text with."""
    ends, start = tokenizer.stop_token_ids, tokenizer.start_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token is not None else None
    config: dict[str, Any] = {
        "bos_token_id": start,
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": ends[0] if pad is None and ends else pad,
    }
    if "decoder_token_ids" in model.input_specs:
        known = Seq2SeqLMPreprocessor.for_class(model.class_name)
        first = (known or Seq2SeqLMPreprocessor)(tokenizer).decoder_start
        config["decoder_start_token_id"] = first[0] if isinstance(first, list) else first
    return {name: value for name, value in config.items() if value not in (None, [])}


def kept(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of the config.json that a model comes from, what it says to those who run the model."""
    inner = config.get("text_config")
    lengths = {LENGTH: config.get(LENGTH)}
    if isinstance(inner, Mapping):
        lengths[f"text_config.{LENGTH}"] = inner.get(LENGTH)
    marks = {f"{mark}_token_id": config.get(f"{mark}_token_id") for mark in ("bos", "eos")}
    return {
        name: value
        for name, value in (marks | lengths).items()
        if all(type(one) is int for one in (value if isinstance(value, list) else [value]))
    }


def is_foreign(source: PresetSource) -> bool:
    """Whether it is a checkpoint of transformers."""
    return dialect_of(source.json(CONFIG)) is TRANSFORMERS


def is_same(source: PresetSource, folder: Path) -> bool:
    return isinstance(source.origin, Path) and source.origin.resolve() == folder.resolve()


def _carried(model: Model, carry: Callable[[PresetSource], list[str]]) -> list[str]:
    preset: Any = model.preset
    if preset is None:
        return []
    try:
        source = open_preset(preset)
        return source.consistently(lambda: carry(source))
    except EXPECTED as error:
        message = f"Only the model is saved, no tokenizer or the like of {preset}: {error}"
        warnings.warn(message, stacklevel=2)
        return []
