"""Tokenizers, preprocessors and converters go along with a model that is saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..backbones._model import Model
from ..presets.checkpoints import DIFFUSERS, TRANSFORMERS, dialect_in
from ..presets.checkpoints.diffusers import TOKENIZERS
from ..presets.checkpoints.files import Within
from ..presets.companions import FOREIGN, VOCABULARIES, companions, copy_companions, has_tokenizer
from ..presets.sources import PresetSource, open_preset
from ..presets.writing import write_into
from .seq_2_seq_lm import Seq2SeqLMPreprocessor
from .tokenizers.base import Tokenizer

# The longest text that T5 was trained with; its encoder has no limit.
T5_LENGTH = 512
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
    ends with. Arguments and warnings are those of `into_preset`.
    """

    def carry(source: PresetSource) -> list[str]:
        is_there = is_foreign(source) and is_same(source, target)
        if is_there or not has_tokenizer(companions(source)):
            return []
        tokenizer = Tokenizer.load(source, Tokenizer.config_file, {})
        files = dict(tokenizer.to_transformers())
        if model.cache_shapes:
            files["generation_config.json"] = generation_config(model, tokenizer)
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


def into_pipeline(model: Model, folder: Path, target: Path) -> list[str]:
    """Write the tokenizers of the preset that a pipeline of several encoders comes from, each into
    a folder of its own. Arguments and warnings are those of `into_preset`.
    """
    encoders = {place: getattr(model, tower, None) for tower, place in TOKENIZERS.items()}
    if not any(encoders.values()):
        return []

    def carry(source: PresetSource) -> list[str]:
        is_pipeline = dialect_in(source) is DIFFUSERS
        names = []
        for tower, place in TOKENIZERS.items():
            if encoders[place] is None:
                continue
            files = _copied(Within(source, place)) if is_pipeline else _made(source, tower, model)
            names += write_into(folder, {f"{place}/{name}": one for name, one in files.items()})
        return names

    return _carried(model, carry)


def _copied(source: PresetSource) -> dict[str, bytes]:
    names = [name for name in FOREIGN if source.has(name)]
    return {name: path.read_bytes() for name, path in zip(names, source.download(names))}


def _made(source: PresetSource, tower: str, model: Model) -> dict[str, Any]:
    """The files of one of several tokenizers of a Keras preset."""
    name = f"{tower}_tokenizer.json"
    if not source.has(name):
        return {}
    tokenizer = Tokenizer.load(source, name, {})
    files: dict[str, Any] = dict(tokenizer.to_transformers())
    files["tokenizer_config.json"] |= {
        "model_max_length": getattr(getattr(model, tower), "max_sequence_length", T5_LENGTH),
        "pad_token": tokenizer.id_to_token(tokenizer.pad_token_id),
    }
    return files


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


def is_foreign(source: PresetSource) -> bool:
    """Whether it is a checkpoint of transformers."""
    return dialect_in(source) is TRANSFORMERS


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
