"""From a preset to a model."""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..backbones._configuration import UnknownClass, deserialize
from ..backbones._model import Model
from ..backbones._registry import find_class
from ..backbones.layers.dtypes import FLOATS, DTypePolicy
from . import builtin
from .building import ModelType, check_class, construct, resized, split_sizes
from .drawing import unread
from .files import ADAPTER, SAFETENSORS, SHARD_INDEX, WEIGHTS
from .filling import check, fill
from .keras.h5 import WeightFile, shard_names
from .parts import Resizing, Sharing
from .refusals import naming
from .request import Request
from .surplus import Ignore

if TYPE_CHECKING:
    from .checkpoints.dialect import Dialect
    from .sources import PresetSource

NOT_YET = "this class of KerasHub is not part of keras_hub_torch yet."
# Names of safetensors.
SHORT_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def load_backbone(
    cls: type[ModelType],
    preset: str | os.PathLike[str],
    load_weights: bool,
    device: str | torch.device | None,
    mmap: bool | None,
    ignore: Ignore,
    dequantize: bool,
    overrides: dict[str, Any],
    sharing: Sharing | None = None,
) -> ModelType:
    """See `Backbone.from_preset`; with `sharing` this process reads what it holds of the model."""
    from .sources import open_preset

    device = torch.device(device or torch.get_default_device())
    request = Request(load_weights, device, mmap, ignore, dequantize, overrides, sharing)
    known = builtin.class_of(str(preset))
    with naming(str(preset)):
        if known is not None and find_class(known, Model) is None:  # before any download
            raise NotImplementedError(f"{preset} is a {known}: {NOT_YET}")
        source = open_preset(preset)
        model = source.consistently(lambda: _load(cls, source, request))
    vars(model)["preset"] = source.origin
    return model


def _load(cls: type[ModelType], source: PresetSource, request: Request) -> ModelType:
    from .checkpoints import TRANSFORMERS, configuration, dialect_of
    from .checkpoints.loading import load

    try:
        source, config = configuration(source, cls)
    except FileNotFoundError as error:
        if source.has(ADAPTER):
            raise ValueError(_adapter_message(source)) from error
        raise
    dialect = dialect_of(config)
    if request.overrides.get("dtype") == "auto":
        dtype = stored_dtype(source, dialect, config)
        request = replace(request, overrides={**request.overrides, "dtype": dtype})
    if dialect is None:
        return _load_keras(cls, source, config, request)
    model = load(dialect, source, config, cls, request)
    if dialect is TRANSFORMERS:
        vars(model)["checkpoint"] = source.checkpoint
    return model


def _load_keras(
    cls: type[ModelType], source: PresetSource, config: Mapping[str, Any], request: Request
) -> ModelType:
    found, arguments = keras_config(config, source.handle, cls)
    check_class(found, cls)
    sizes, overrides = split_sizes(found, request.overrides)
    quantized, dtype = arguments["dtype"], overrides.get("dtype")
    if request.dequantize and quantized is not None:
        raise ValueError(
            f"{source.handle} is quantized by Keras and stays so: dequantize=True is for "
            "checkpoints of transformers."
        )
    if dtype is None:
        overrides.pop("dtype", None)
    elif quantized is not None:
        # What is quantized stays so; the rest, and the computation, take the dtype given.
        default = DTypePolicy.get(dtype).serialize()
        changed = {**quantized["config"], "default_policy": default}
        overrides["dtype"] = {**quantized, "config": changed}
    arguments |= overrides
    if sizes or not request.load_weights:
        model = unread(found, arguments, sizes, request)
        if model is not None:
            return model
    model = construct(found, arguments, "meta")
    files = keras_files(source)
    if request.device.type == "meta":
        check(model, files, request.ignore)
        return resized(model, sizes).eval()
    sharing = request.sharing
    resizing = Resizing(sharing, model, sizes) if sharing is not None and sizes else None
    fill(
        model,
        files,
        request.device,
        request.mmap,
        request.ignore,
        source.settle,
        resizing or sharing,
    )
    return (resizing.finish() if resizing is not None else resized(model, sizes)).eval()


def _adapter_message(source: PresetSource) -> str:
    base = source.json(ADAPTER).get("base_model_name_or_path")
    named = f", {base[:200]!r}," if isinstance(base, str) and base else ""
    return (
        f"{source.handle} is an adapter of PEFT, not a model. Load the model it was made for"
        f"{named} by from_preset, then the adapter by backbone.load_lora_weights(folder)."
    )


def keras_config(
    config: Mapping[str, Any], where: str, cls: type[Model] = Model
) -> tuple[type[Any], dict[str, Any]]:
    """The class, one of this package or `cls`, and the constructor arguments that a Keras
    `config.json` describes.

    Raises:
        ValueError: no configuration of a backbone, or of one that is not known.
        NotImplementedError: KerasHub has the class, this package does not yet.
    """
    registered = config.get("registered_name") or config.get("class_name")
    if not isinstance(registered, str) or not isinstance(config.get("config"), dict):
        raise ValueError(
            f"{where} is no preset of a backbone: its config.json has neither a Keras class "
            "(registered_name and config) nor a transformers model_type or a timm architecture."
        )
    own = [cls] if registered.rpartition(">")[2] == cls.__name__ else []
    try:
        return deserialize(config, where, own)
    except UnknownClass as error:
        if error.is_keras_hubs and builtin.is_backbone(error.class_name):
            raise NotImplementedError(f"{where} is a {error.class_name}: {NOT_YET}") from error
        raise


def keras_files(source: PresetSource) -> list[Path]:
    """The file, or the index and then the files, that hold a preset's weights, fetched if need be.

    Raises:
        FileNotFoundError: there are none.
    """
    if source.has(WEIGHTS):
        return [source.file(WEIGHTS)]
    if source.has(SHARD_INDEX):
        index = source.file(SHARD_INDEX)
        return [index, *source.download(shard_names(index))]
    if source.has(SAFETENSORS):
        return [source.file(SAFETENSORS)]
    try:
        return [source.file(WEIGHTS)]  # a hub out of reach says so
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{source.handle} has no weights: none of {WEIGHTS}, {SHARD_INDEX}, {SAFETENSORS}. "
            "With load_weights=False they are drawn at random."
        ) from error


def stored_dtype(source: PresetSource, dialect: Dialect | None, config: Mapping[str, Any]) -> str:
    """The floating dtype that most bytes of a preset's weights have."""
    from .checkpoints.files import open_weights
    from .checkpoints.loading import files_of

    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        paths = keras_files(source) if dialect is None else files_of(dialect, source, config)
        if paths[0].suffix in (".h5", ".json"):
            for dataset in stack.enter_context(WeightFile(*paths)).datasets.values():
                counts[str(dataset.dtype).removeprefix("torch.")] += dataset.nbytes
        else:
            for tensor in (tensor for path in paths for tensor in open_weights(path, stack)):
                name = SHORT_NAMES.get(tensor.dtype, tensor.dtype)
                counts[name] += math.prod(tensor.shape)
    floats = [name for name, _ in counts.most_common() if name in FLOATS]
    return floats[0] if floats else "float32"
