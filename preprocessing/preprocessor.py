"""What all task preprocessors do around their own step."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch

from ..backbones._configuration import constructor_arguments
from ..presets import builtin
from ..presets.files import safe_name
from ..presets.sources import PresetSource
from ._checkpoint import Checkpoint
from ._layer import PARTS, PreprocessingLayer, backbone_of, class_of, find_class, public_classes
from .tokenizers.base import Tokenizer

PreprocessorType = TypeVar("PreprocessorType", bound="Preprocessor")
CONFIG_FILE = "preprocessor.json"


class Preprocessor(PreprocessingLayer):
    """Raw data of one task → what a backbone takes.

    Called with data alone it gives the backbone's inputs, so that it is a `collate_fn` of a
    `DataLoader`; labels and weights given besides come back behind them, as in Keras.

    Attributes:
        backbone: name of the class of the models that it is for.
        task: as in the name of KerasHub's module, `causal_lm`.
        processor: what transformers calls the class that does the same, if it has one.
        settings: its settings → the attributes of the model that they are.
        needs: parts that it has to have, as they are where there are none here.
        token_keys: keys of transformers' `config.json` → the tokenizer's ids that they are.
        text_name: what a text to generate from is called beside images or sound.
    """

    backbone: ClassVar[str | None] = None
    task: ClassVar[str] = ""
    processor: ClassVar[str] = ""
    settings: ClassVar[Mapping[str, str]] = {}
    needs: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    token_keys: ClassVar[Mapping[str, str]] = {}
    text_name: ClassVar[str] = "prompts"
    config_file = CONFIG_FILE
    tokenizer: Tokenizer | None = None
    audio_converter: PreprocessingLayer | None = None
    image_converter: PreprocessingLayer | None = None
    video_converter: PreprocessingLayer | None = None

    def __init__(self, *, config_file: str = CONFIG_FILE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config_file = safe_name(config_file)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "keras_module" not in vars(cls):
            family = builtin.family_of(cls.backbone) if cls.backbone else ""
            name = "_".join(filter(None, (family, cls.task, "preprocessor")))
            cls.keras_module = ".".join(filter(None, ("keras_hub.src.models", family, name)))

    @classmethod
    def load(
        cls: type[PreprocessorType],
        source: PresetSource,
        config_file: str,
        overrides: Mapping[str, Any],
    ) -> PreprocessorType:
        """That of the preset, if it is of this class; otherwise this class's for the preset's
        backbone, with its tokenizer and converters and default arguments.
        """
        if source.has(config_file):
            config = source.json(config_file)
            found = class_of(config, f"{source.handle}'s {config_file}", Preprocessor)
            if issubclass(found, cls):
                return super().load(source, config_file, overrides)
        known = cls.for_backbone(source)
        wanted = [
            name for name in PARTS if name in constructor_arguments(known) and name not in overrides
        ]
        return known(**parts_of(source, wanted), **overrides)

    @classmethod
    def for_backbone(cls: type[PreprocessorType], source: PresetSource) -> type[PreprocessorType]:
        """The subclass for the models of a preset.

        Raises:
            ValueError: there is none.
        """
        checkpoint = Checkpoint(source)
        backbone = checkpoint.backbone if checkpoint.is_foreign else backbone_of(source)
        found = cls.for_class(backbone)
        if found is None:
            raise ValueError(f"{source.handle} has a {backbone}, which no {cls.__name__} is for.")
        return found

    @classmethod
    def for_class(cls: type[PreprocessorType], backbone: str) -> type[PreprocessorType] | None:
        """The subclass for a class of backbones, by its name."""
        if cls.backbone == backbone:
            return cls
        others = (one for one in public_classes().values() if issubclass(one, cls))
        return next((one for one in others if one.backbone == backbone), None)


def parts_of(source: PresetSource, names: Sequence[str]) -> dict[str, Any]:
    """The tokenizer and converters that a preset, or a checkpoint of transformers, has.

    Args:
        names: of `PARTS`.
    """
    is_foreign = Checkpoint(source).is_foreign
    found = {}
    for name in names:
        file = f"{name}.json"
        base: Any = base_of(name)
        if is_foreign:
            with contextlib.suppress(FileNotFoundError):
                found[name] = base.load(source, file, {})
        elif source.has(file):
            base = Tokenizer if name == "tokenizer" else PreprocessingLayer
            found[name] = base.load(source, file, {})
    return found


def base_of(name: str) -> type[PreprocessingLayer]:
    """The class whose subclasses an argument, of `PARTS`, takes."""
    found = find_class(name.title().replace("_", ""), PreprocessingLayer)
    assert found is not None
    return found


def with_labels(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """Inputs alone, or before labels and weights where there are some, as in Keras."""
    if y is None:
        return x
    return (x, y) if sample_weight is None else (x, y, sample_weight)


def samples(x: Any, y: Any = None) -> tuple[Any, Any]:
    """What a `DataLoader` collects as columns: texts, or tuples of texts, and labels behind them;
    of mappings one, with `None` for what a sample does not have.

    A tuple itself is no list of samples but the segments of one text or several.
    """
    if not isinstance(x, list) or not x:
        return x, y
    if isinstance(x[0], Mapping):
        names = dict.fromkeys(name for one in x for name in one)
        return {name: [one.get(name) for one in x] for name in names}, y
    if not isinstance(x[0], tuple):
        return x, y
    columns = [list(column) for column in zip(*x, strict=True)]
    if y is None and not isinstance(columns[-1][0], str):
        y = torch.as_tensor(columns.pop())
    return (tuple(columns) if len(columns) > 1 else columns[0]), y
