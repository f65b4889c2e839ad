"""Tokenizers, preprocessors and converters go along with a model that is saved."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..backbones._configuration import constructor_arguments
from ..backbones._model import Model
from ..presets.checkpoints import DIFFUSERS, TRANSFORMERS, dialect_in
from ..presets.checkpoints.arguments import with_keys
from ..presets.checkpoints.diffusers import INDEX
from ..presets.checkpoints.files import Within
from ..presets.companions import (
    FOREIGN,
    GENERATION,
    VOCABULARIES,
    companions,
    copy_companions,
    has_tokenizer,
)
from ..presets.files import CONFIG
from ..presets.refusals import naming
from ..presets.sources import PresetSource, open_preset
from ..presets.writing import write_into
from ._checkpoint import PLACES, PREPROCESSOR, PROCESSOR, Checkpoint
from ._converter import Converter
from ._layer import PreprocessingLayer, public_classes
from .causal_lm import CausalLMPreprocessor
from .images.converter import ImageConverter
from .preprocessor import Preprocessor, base_of
from .seq_2_seq_lm import Seq2SeqLMPreprocessor
from .text_to_image import TextToImagePreprocessor
from .tokenizers.base import Tokenizer

# The longest text that a model was made for, where it has no table of positions.
LENGTH = "max_position_embeddings"
# The longest text that T5 was trained with; its encoder has no limit.
T5_LENGTH = 512
# As the pipelines' signatures have it.
FAST = {"T5Tokenizer": "T5TokenizerFast"}
TOKENIZER_CONFIG = "tokenizer_config.json"
# What a stranger's preset, or one that is gone, can cause.
EXPECTED = (ValueError, TypeError, OSError, NotImplementedError, ImportError)
# Files in which transformers says how pixels and sound are made.
PROCESSORS = (PROCESSOR, *dict.fromkeys(file for _, file in PLACES.values()))
# What timm says of pixels.
PIXELS = (
    *("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"),
    *("test_input_size", "test_crop_pct"),
)
# Tokens that a tokenizer here has → attributes that transformers' processors look for.
MARKS = {
    "image_placeholder": "image_token",
    "image_token": "image_token",
    "start_of_image_token": "boi_token",
    "end_of_image_token": "eoi_token",
    "audio_placeholder": "audio_token",
    "start_of_audio_token": "boa_token",
    "end_of_audio_token": "eoa_token",
    "video_token": "video_token",
    "vision_start_token": "vision_bos_token",
    "vision_end_token": "vision_eos_token",
}


def into_preset(model: Model, folder: Path, target: Path) -> list[str]:
    """Write what the preset that a model comes from has beside it, as Keras does.

    Where that cannot be had, a warning says so.

    Args:
        folder: that is written to.
        target: where it will be.
    """

    def carry(source: PresetSource) -> list[str]:
        if Checkpoint(source).is_foreign:
            names = [*(["tokenizer"] if _has_tokenizer_of(source) else []), *PLACES]
            parts = _each_part(source, names)
            files = {name: content for part in parts.values() for name, content in part.files()}
            if GENERATION in companions(source):
                files[GENERATION] = source.json(GENERATION)
            return write_into(folder, files)
        if _is_same(source, target):
            return []
        if dialect_in(source) is DIFFUSERS:
            found = TextToImagePreprocessor.for_class(model.class_name)
            places = found.places.values() if found else ()
            if not found or not any(source.has(f"{one}/{TOKENIZER_CONFIG}") for one in places):
                return []
            return write_into(folder, dict(found.load(source, CONFIG, {}).files()))
        return copy_companions(source, model.serialize(), folder)

    return _carried(model, carry)


def into_checkpoint(model: Model, folder: Path, target: Path) -> list[str]:
    """Write the tokenizer and the converters of the preset that a model comes from for
    transformers, and what text begins and ends with, also into config.json: engines take it from
    there, too, and where it says nothing they take that of some other model.

    Arguments and warnings are those of `into_preset`.
    """

    def carry(source: PresetSource) -> list[str]:
        is_foreign = Checkpoint(source).is_foreign
        is_there = is_foreign and _is_same(source, target)
        files: dict[str, bytes | dict[str, Any]] = {}
        marks: dict[str, Any] = {}
        tokenizer = None
        if not is_there and _has_tokenizer_of(source):
            tokenizer = Tokenizer.load(source, Tokenizer.config_file, {})
            files |= dict(tokenizer.to_transformers())
            if model.cache_shapes:
                marks = _generation_config(model, tokenizer)
                theirs = source.json(GENERATION) if GENERATION in companions(source) else {}
                files[GENERATION] = {**marks, **theirs}
        kept = _kept(source.json(CONFIG)) if is_foreign else {}
        _complete(folder / CONFIG, marks | kept, _places(model, tokenizer))
        if is_there:
            return []
        if is_foreign:
            names = [name for name in companions(source) if name in PROCESSORS]
            return write_into(folder, files) + _copied(source, names, folder)
        return write_into(folder, {**files, **_processors(model, source, tokenizer, files)})

    carried = _carried(model, carry)
    reads_text = any(spec.kind == "ids" for spec in model.input_specs.values())
    there = any((target / name).exists() for name in VOCABULARIES)
    if reads_text and not has_tokenizer(carried) and not there:
        warnings.warn(
            f"No tokenizer goes along with this {model.class_name}, and where there is none "
            "AutoTokenizer makes one up that knows no words. Copy that of the model's origin.",
            stacklevel=2,
        )
    return carried


def into_timm(model: Model, folder: Path, target: Path) -> list[str]:
    """Write into config.json how the pixels are made that a model takes.

    Arguments and warnings are those of `into_preset`.
    """

    def carry(source: PresetSource) -> list[str]:
        checkpoint = Checkpoint(source)
        path = folder / CONFIG
        config = json.loads(path.read_text())
        about = config["pretrained_cfg"]
        if checkpoint.is_timm:
            given = checkpoint.config.get("pretrained_cfg") or {}
            about |= {name: value for name, value in given.items() if name in PIXELS}
        else:
            converter = _each_part(source, ["image_converter"]).get("image_converter")
            if isinstance(converter, ImageConverter):
                about |= converter.to_timm(about.get("input_size", [3])[0])
        path.write_text(json.dumps(config, indent=2))
        return []

    return _carried(model, carry)


def into_pipeline(model: Model, folder: Path, target: Path) -> list[str]:
    """Write the tokenizers of the preset that a pipeline of several encoders comes from, each into
    a folder of its own, and their classes into the pipeline's index.

    Arguments and warnings are those of `into_preset`.
    """
    preprocessor = TextToImagePreprocessor.for_class(model.class_name)
    path = folder / INDEX
    if preprocessor is None or not path.exists():
        return []

    def carry(source: PresetSource) -> list[str]:
        is_pipeline = dialect_in(source) is DIFFUSERS
        index, names = json.loads(path.read_text()), []
        for tower, place in preprocessor.places.items():
            if getattr(model, tower, None) is None:
                continue
            files = (
                _tokenizer_of(Within(source, place)) if is_pipeline else _made(source, tower, model)
            )
            names += write_into(folder, {f"{place}/{name}": one for name, one in files.items()})
            about = folder / place / TOKENIZER_CONFIG
            kind = json.loads(about.read_text()).get("tokenizer_class") if about.exists() else None
            if isinstance(kind, str):
                index[place] = ["transformers", FAST.get(kind, kind)]
        path.write_text(json.dumps(index, indent=2))
        return names

    return _carried(model, carry)


def _has_tokenizer_of(source: PresetSource) -> bool:
    return has_tokenizer(companions(source))


def _each_part(source: PresetSource, names: Sequence[str]) -> dict[str, PreprocessingLayer]:
    """Those of `preprocessor.parts_of` that can be had, each by itself; warnings name the others.

    Converters within a preprocessor are found, too.
    """
    found: dict[str, PreprocessingLayer] = {}
    for name in names:
        try:
            base: Any = base_of(name)
            with naming(source.handle):
                found[name] = base.load(source, base.config_file, {})
        except EXPECTED as error:
            if isinstance(error, FileNotFoundError) and name != "tokenizer":
                continue  # there is none
            warnings.warn(f"{source.handle}'s {name} stays behind: {error}", stacklevel=2)
    return found


def _processors(
    model: Model,
    source: PresetSource,
    tokenizer: Tokenizer | None,
    files: dict[str, bytes | dict[str, Any]],
) -> dict[str, bytes | dict[str, Any]]:
    """What transformers reads the converters of a Keras preset from.

    Args:
        files: of the tokenizer, which is told what else there is.
    """
    parts: dict[str, dict[str, Any]] = {}
    for name, part in _each_part(source, [*PLACES]).items():
        assert isinstance(part, Converter)
        try:
            parts[PLACES[name][0]] = part.to_transformers()
        except (NotImplementedError, ValueError) as error:
            warnings.warn(f"{source.handle}'s {name} stays behind: {error}", stacklevel=2)
    if not parts:
        return {}
    classes = (one for one in public_classes().values() if issubclass(one, Preprocessor))
    known = (one for one in classes if one.processor and one.backbone == model.class_name)
    one = next(known, Preprocessor)
    name, settings = one.processor, _settings(model, one.settings)
    if "image_processor" in parts and "image_seq_length" in settings:
        parts["image_processor"]["image_seq_length"] = settings["image_seq_length"]
    flat = {**parts.get("feature_extractor", {}), **parts.get("image_processor", {})}
    said = {"processor_class": name} if name else {}
    found: dict[str, bytes | dict[str, Any]] = {PREPROCESSOR: {**flat, **said}} if flat else {}
    if "video_processor" in parts:
        found[PLACES["video_converter"][1]] = {**parts["video_processor"], **said}
    if not name:
        return found
    about = files.get(TOKENIZER_CONFIG)
    if tokenizer is not None and isinstance(about, dict):
        marks = {MARKS[name]: token for name, token in tokenizer.special.items() if name in MARKS}
        more = {"extra_special_tokens": marks} if marks else {}
        found[TOKENIZER_CONFIG] = {**about, **said, **more}
    return {**found, PROCESSOR: {**one.needs, **parts, **settings, **said}}


def _settings(model: Model, attributes: Mapping[str, str]) -> dict[str, Any]:
    """Of transformers' processor, where the model has them."""
    found = {}
    for name, path in attributes.items():
        value: Any = model
        for attribute in path.split("."):
            value = getattr(value, attribute, None)
        if value is not None:
            found[name] = value
    return found


def _copied(source: PresetSource, names: Sequence[str], folder: Path) -> list[str]:
    """Copy files of a checkpoint as they are."""
    for name, path in zip(names, source.download(names) if names else []):
        shutil.copyfile(path, folder / name)
    return list(names)


def _tokenizer_of(source: PresetSource) -> dict[str, bytes]:
    names = [name for name in FOREIGN if source.has(name)]
    return {name: path.read_bytes() for name, path in zip(names, source.download(names))}


def _made(source: PresetSource, tower: str, model: Model) -> dict[str, Any]:
    """The files of one of several tokenizers of a Keras preset."""
    name = f"{tower}_tokenizer.json"
    if not source.has(name):
        return {}
    tokenizer = Tokenizer.load(source, name, {})
    files: dict[str, Any] = dict(tokenizer.to_transformers())
    files[TOKENIZER_CONFIG] |= {
        "model_max_length": getattr(getattr(model, tower), "max_sequence_length", T5_LENGTH),
        "pad_token": tokenizer.id_to_token(tokenizer.pad_token_id),
    }
    return files


def _generation_config(model: Model, tokenizer: Tokenizer) -> dict[str, Any]:
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
        if known is None or "audio_converter" in constructor_arguments(known):
            known = Seq2SeqLMPreprocessor
        first = known(tokenizer).decoder_start
        if first is None:  # Whisper's is no start of a text
            first = getattr(tokenizer, "bos_token_id", None)
        config["decoder_start_token_id"] = first[0] if isinstance(first, list) else first
    return {name: value for name, value in config.items() if value not in (None, [])}


def _places(model: Model, tokenizer: Tokenizer | None) -> dict[str, int]:
    """The tokens of text where transformers looks for images and sound."""
    known = CausalLMPreprocessor.for_class(model.class_name)
    found = {
        key: getattr(tokenizer, name, None)
        for key, name in (known.token_keys if known is not None else {}).items()
    }
    return {key: id for key, id in found.items() if id is not None and id >= 0}


def _complete(path: Path, marks: Mapping[str, Any], places: Mapping[str, int]) -> None:
    """Say in config.json what it does not say yet; the length of texts is that of the origin.

    Args:
        places: that are said where there are images or sound.
    """
    config = json.loads(path.read_text())
    # Where there is a token for padding alone transformers never trains it.
    further = {k: v for k, v in marks.items() if k != "pad_token_id" and k not in config}
    further |= {
        k: v
        for k, v in marks.items()
        if k == LENGTH or ("." in k and k.partition(".")[0] in config)
    }
    further |= places if {"vision_config", "audio_config"} & config.keys() else {}
    path.write_text(json.dumps(with_keys(TRANSFORMERS, config, further), indent=2))


def _kept(config: Mapping[str, Any]) -> dict[str, Any]:
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


def _is_same(source: PresetSource, folder: Path) -> bool:
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
