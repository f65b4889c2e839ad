"""Texts for models that draw: ids for each of their encoders of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch

from ..presets.checkpoints.diffusers import INDEX
from ..presets.checkpoints.files import Within
from ..presets.files import CONFIG
from ..presets.sources import PresetSource
from ._layer import PreprocessingLayer
from .multimodal.clip import CLIPPreprocessor
from .packers import StartEndPacker
from .preprocessor import Preprocessor, samples, with_labels
from .tokenizers.base import Tokenizer
from .tokenizers.clip import CLIPTokenizer
from .tokenizers.foreign import Foreign
from .tokenizers.t5 import T5Tokenizer

ClassType = TypeVar("ClassType", bound="TextToImagePreprocessor")


class T5Preprocessor(Preprocessor):
    """Texts for T5's encoder.

    Args:
        tokenizer: the model's.
        sequence_length: of the rows.
        add_start_token: whether a text begins with the start token.
        add_end_token: whether it ends with the end token.
    """

    keras_module = "keras_hub.src.models.t5.t5_preprocessor"
    tokenizer: Tokenizer

    def __init__(
        self,
        tokenizer: Tokenizer,
        sequence_length: int = 256,
        add_start_token: bool = False,
        add_end_token: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.add_start_token = add_start_token
        self.add_end_token = add_end_token

    def __call__(
        self, x: Any, y: Any = None, sample_weight: Any = None, sequence_length: int | None = None
    ) -> Any:
        """`token_ids` and `padding_mask` of a text or a list of them; labels and weights behind."""
        x, y = samples(x, y)
        packer = StartEndPacker(
            sequence_length=sequence_length or self.sequence_length,
            start_value=self.tokenizer.start_token_id,
            end_value=self.tokenizer.end_token_id,
            pad_value=self.tokenizer.pad_token_id,
            return_padding_mask=True,
        )
        ids, mask = packer(
            self.tokenizer.tokenize(x),
            add_start_value=self.add_start_token,
            add_end_value=self.add_end_token,
        )
        return with_labels({"token_ids": ids, "padding_mask": mask}, y, sample_weight)


class TextToImagePreprocessor(Preprocessor):
    """Texts → token ids by the names of the encoders, `clip_l` and so on.

    Attributes:
        places: the encoders, and the folders of their tokenizers in a pipeline of diffusers.
    """

    places: ClassVar[Mapping[str, str]] = {}
    clip_l_preprocessor: CLIPPreprocessor
    clip_g_preprocessor: CLIPPreprocessor | None = None
    t5_preprocessor: T5Preprocessor | None = None

    @property
    def sequence_length(self) -> int:
        """Of the rows for CLIP."""
        return self.clip_l_preprocessor.sequence_length

    def __call__(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Ids `[texts, length]` for each encoder; labels and weights behind if there are some."""
        x, y = samples(x, y)
        return with_labels(self.generate_preprocess(x), y, sample_weight)

    def generate_preprocess(self, x: Any) -> dict[str, torch.Tensor]:
        """Ids for each encoder, of a text or a list of them."""
        found = {}
        for name in self.places:
            preprocessor = getattr(self, f"{name}_preprocessor")
            if preprocessor is not None:
                texts = {"prompts": x} if isinstance(preprocessor, CLIPPreprocessor) else x
                found[name] = preprocessor(texts)["token_ids"]
        return found

    @classmethod
    def load(
        cls: type[ClassType], source: PresetSource, config_file: str, overrides: Mapping[str, Any]
    ) -> ClassType:
        """That of the preset; otherwise one of its tokenizers, or of a pipeline's of diffusers."""
        is_pipeline = source.has(INDEX) and not source.has(CONFIG)
        if not is_pipeline and source.has(config_file):
            return super().load(source, config_file, overrides)
        found = cls.for_pipeline(source) if is_pipeline else cls.for_backbone(source)
        make = of_folder if is_pipeline else of_keras
        parts = {
            f"{name}_preprocessor": make(source, name, found.places[name]) for name in found.places
        }
        return found(**{**parts, **overrides})

    @classmethod
    def for_pipeline(cls: type[ClassType], source: PresetSource) -> type[ClassType]:
        """The subclass for a pipeline of diffusers.

        Raises:
            ValueError: there is none.
        """
        kind = str(source.json(INDEX).get("_class_name"))
        found = cls.for_class(f"{kind.partition('Pipeline')[0]}Backbone")
        if found is None:
            raise ValueError(f"{source.handle} is a {kind}, which no {cls.__name__} is for.")
        return found


class StableDiffusion3TextToImagePreprocessor(TextToImagePreprocessor):
    """Texts for Stable Diffusion 3.

    Args:
        clip_l_preprocessor: for the smaller CLIP.
        clip_g_preprocessor: for the larger one.
        t5_preprocessor: for the T5, if the model has one.
    """

    backbone = "StableDiffusion3Backbone"
    task = "text_to_image"
    places: ClassVar[Mapping[str, str]] = {
        "clip_l": "tokenizer",
        "clip_g": "tokenizer_2",
        "t5": "tokenizer_3",
    }

    def __init__(
        self,
        clip_l_preprocessor: CLIPPreprocessor,
        clip_g_preprocessor: CLIPPreprocessor,
        t5_preprocessor: T5Preprocessor | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.clip_l_preprocessor = clip_l_preprocessor
        self.clip_g_preprocessor = clip_g_preprocessor
        self.t5_preprocessor = t5_preprocessor


class FluxTextToImagePreprocessor(TextToImagePreprocessor):
    """Texts for Flux's encoders.

    Args:
        clip_l_preprocessor: for the CLIP.
        t5_preprocessor: for the T5.
    """

    backbone = "FluxBackbone"
    task = "text_to_image"
    places: ClassVar[Mapping[str, str]] = {"clip_l": "tokenizer", "t5": "tokenizer_2"}

    def __init__(
        self,
        clip_l_preprocessor: CLIPPreprocessor,
        t5_preprocessor: T5Preprocessor | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.clip_l_preprocessor = clip_l_preprocessor
        self.t5_preprocessor = t5_preprocessor


def of_keras(source: PresetSource, name: str, folder: str) -> Any:
    """The preprocessor for an encoder of a Keras preset, or of its tokenizer alone."""
    if source.has(file := f"{name}_preprocessor.json"):
        return PreprocessingLayer.load(source, file, {})
    if name == "t5" and not source.has("t5_tokenizer.json"):
        return None
    file = f"{name}_tokenizer.json"
    return _of_tokenizer(name, Tokenizer.load(source, file, {}))


def of_folder(source: PresetSource, name: str, folder: str) -> Any:
    """The preprocessor of the tokenizer in a folder of a pipeline."""
    files = Foreign(Within(source, folder))
    cls: type[Tokenizer] = T5Tokenizer if name == "t5" else CLIPTokenizer
    if name == "t5" and not files.config:
        return None
    if not cls.reads(files):
        raise FileNotFoundError(f"{source.handle} has no tokenizer in {folder} that can be read.")
    arguments = {**cls.arguments_of(files), "config_file": f"{name}_tokenizer.json"}
    return _of_tokenizer(name, cls(**arguments))


def _of_tokenizer(name: str, tokenizer: Tokenizer) -> Any:
    cls: type[Preprocessor] = T5Preprocessor if name == "t5" else CLIPPreprocessor
    return cls(tokenizer=tokenizer, config_file=f"{name}_preprocessor.json")
