"""What converters of pixels and of sound share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch

from ..backbones._backbone import classproperty
from ..backbones.layers.dtypes import DTypePolicy
from ..presets import builtin
from ..presets.building import check_amounts
from ..presets.sources import PresetSource
from ._checkpoint import Checkpoint
from ._layer import PreprocessingLayer, class_of, public_classes

ConverterType = TypeVar("ConverterType", bound="Converter")
PREPROCESSOR = "preprocessor.json"


class Converter(PreprocessingLayer):
    """Makes pixels or sound into what a backbone takes.

    Args:
        name: as in Keras; the class's name in snake case by default.
        trainable: without effect, as in Keras.
        dtype: of what it returns.

    Attributes:
        kind: `image_converter`, say: its file in a preset, and its key in `preprocessor.json`.
        backbone: name of the class of the models that it is for.
    """

    kind: ClassVar[str] = "converter"
    backbone: ClassVar[str | None] = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        DTypePolicy.get(self.dtype)  # or there is none

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.config_file = f"{cls.kind}.json"
        stem = cls.__name__.removesuffix(cls.kind.title().replace("_", ""))
        if "backbone" not in vars(cls) and stem not in ("", cls.__name__):
            cls.backbone = f"{stem}Backbone"
        family = builtin.family_of(cls.backbone) if cls.backbone else ""
        place = f"models.{family}.{family}_" if family else "layers.preprocessing."
        cls.keras_module = f"keras_hub.src.{place}{cls.kind}"

    @property
    def compute_dtype(self) -> torch.dtype:
        return DTypePolicy.get(self.dtype).compute_dtype

    @classproperty
    def presets(cls: Any) -> dict[str, dict[str, Any]]:
        """Built-in presets whose backbones this class, or a subclass of it, is for."""
        classes = [one for one in (cls, *public_classes().values()) if issubclass(one, cls)]
        return builtin.presets_of({one.backbone for one in classes if one.backbone})

    @classmethod
    def load(
        cls: type[ConverterType],
        source: PresetSource,
        config_file: str,
        overrides: Mapping[str, Any],
    ) -> ConverterType:
        """What the preset has of this kind, in a file of its own or within its preprocessor; of a
        checkpoint of transformers or timm what does the same.
        """
        checkpoint = Checkpoint(source)
        if checkpoint.is_foreign:
            found = cls.for_class(checkpoint.backbone)
            if found is None:
                raise FileNotFoundError(
                    f"{source.handle} is a {checkpoint.backbone}, for which there is no "
                    f"{cls.__name__}."
                )
            arguments = found.arguments_of(checkpoint)
            check_amounts(arguments)
            return found(**{**arguments, **overrides})
        if source.has(config_file) or not source.has(PREPROCESSOR):
            check_amounts(source.json(config_file))
            return super().load(source, config_file, overrides)
        config = source.json(PREPROCESSOR).get("config")
        part = config.get(cls.kind) if isinstance(config, dict) else None
        if not isinstance(part, dict):
            raise FileNotFoundError(f"Preset {source.handle!r} has no {config_file}.")
        check_amounts(part)
        found = class_of(part, f"{source.handle}'s {PREPROCESSOR}", cls)
        return found.from_config({**part["config"], **overrides})

    @classmethod
    def for_class(cls: type[ConverterType], backbone: str) -> type[ConverterType] | None:
        """The subclass for a class of backbones, by its name."""
        classes = (one for one in (cls, *public_classes().values()) if issubclass(one, cls))
        return next((one for one in classes if one.backbone == backbone), None)

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        """The constructor's arguments that do what transformers, or timm, does.

        Raises:
            FileNotFoundError: the checkpoint does not say what that is.
            ValueError: it says what cannot be.
            NotImplementedError: what it says is not known here.
        """
        raise NotImplementedError(f"What a {cls.__name__} is elsewhere is not known.")

    def to_transformers(self) -> dict[str, Any]:
        """The configuration of the processor in transformers that does the same.

        Raises:
            NotImplementedError: there is none.
        """
        raise NotImplementedError(f"transformers has nothing like a {type(self).__name__}.")
