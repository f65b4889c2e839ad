"""Gemma's tokenizers, and those of the families with its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import named
from .model_file import ModelFile
from .sentence_piece import SentencePieceTokenizer

TEXT = named(start_token="<bos>", end_token="<eos>", pad_token="<pad>")
# What transformers has where an image is.
IMAGE = "<image_soft_token>"


class GemmaTokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "GemmaBackbone"
    templates = ("start $A", "start $A start $B:1")
    turn_ends = ("<end_of_turn>",)
    special = TEXT


class PaliGemmaTokenizer(GemmaTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "PaliGemmaBackbone"


class T5GemmaTokenizer(GemmaTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "T5GemmaBackbone"


class T5Gemma2Tokenizer(GemmaTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "T5Gemma2Backbone"


class Gemma3Tokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`.

    Args:
        has_vision_tokens: whether there are tokens for images; their ids are -1 otherwise.
        placeholder: the token of an image in a vocabulary without KerasHub's `<img>`, transformers'
            say; then there are those tokens in any case.
    """

    backbone = "Gemma3Backbone"
    own = (*SentencePieceTokenizer.own, "placeholder")
    templates = ("start $A", "start $A start $B:1")
    turn_ends = ("<end_of_turn>",)
    vision = named(
        image_placeholder="<img>",
        start_of_image_token="<start_of_image>",
        end_of_image_token="<end_of_image>",
    )

    def __init__(
        self,
        proto: Any = None,
        has_vision_tokens: bool = True,
        *,
        placeholder: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.has_vision_tokens = has_vision_tokens
        self.placeholder = placeholder
        if placeholder is not None:
            self.vision = {**self.vision, "image_placeholder": placeholder}
        sees = has_vision_tokens or placeholder is not None
        self.special = {**TEXT, **(self.vision if sees else {})}
        super().__init__(proto, **kwargs)
        if not sees:
            _without(self, self.vision)

    @classmethod
    def special_arguments(cls, model: ModelFile) -> dict[str, Any]:
        pieces = {piece.text for piece in model.pieces}
        if pieces.issuperset(cls.vision.values()):
            return {}
        theirs = {**cls.vision, "image_placeholder": IMAGE}
        placeholder = IMAGE if pieces.issuperset(theirs.values()) else None
        return {"has_vision_tokens": False, "placeholder": placeholder}


class Gemma3nTokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "Gemma3nBackbone"
    templates = ("start $A", "start $A start $B:1")
    turn_ends = ("<end_of_turn>",)
    special = named(
        **TEXT,
        image_placeholder="<image_soft_token>",
        audio_placeholder="<audio_soft_token>",
        start_of_image_token="<start_of_image>",
        end_of_image_token="<end_of_image>",
        start_of_audio_token="<start_of_audio>",
        end_of_audio_token="<end_of_audio>",
        start_of_turn_token="<start_of_turn>",
        end_of_turn_token="<end_of_turn>",
        mask_token="<mask>",
        multimodal_token="[multimodal]",
    )


class Gemma4Tokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`.

    Args:
        has_vision_tokens: whether there are tokens for images; their ids are -1 otherwise.
        has_audio_tokens: those for sound.
        has_video_tokens: the one for videos.
    """

    backbone = "Gemma4Backbone"
    templates = ("start $A", "start $A start $B:1")
    turn_ends = ("<turn|>",)
    vision = named(
        start_of_image_token="<|image>",
        image_placeholder="<|image|>",
        end_of_image_token="<image|>",
    )
    audio = named(
        start_of_audio_token="<|audio>",
        audio_placeholder="<|audio|>",
        end_of_audio_token="<audio|>",
    )
    video = named(video_placeholder="<|video|>")
    start_of_video_token_id = end_of_video_token_id = -1

    @classmethod
    def special_arguments(cls, model: ModelFile) -> dict[str, Any]:
        pieces = {piece.text for piece in model.pieces}
        kinds = {"vision": cls.vision, "audio": cls.audio, "video": cls.video}
        return {
            f"has_{kind}_tokens": pieces.issuperset(tokens.values())
            for kind, tokens in kinds.items()
        }

    def __init__(
        self,
        proto: Any = None,
        has_vision_tokens: bool = True,
        has_audio_tokens: bool = False,
        has_video_tokens: bool = True,
        **kwargs: Any,
    ) -> None:
        self.has_vision_tokens = has_vision_tokens
        self.has_audio_tokens = has_audio_tokens
        self.has_video_tokens = has_video_tokens
        kinds = (
            (has_vision_tokens, self.vision),
            (has_audio_tokens, self.audio),
            (has_video_tokens, self.video),
        )
        self.special = dict(TEXT)
        for has, tokens in kinds:
            self.special |= tokens if has else {}
        super().__init__(proto, **kwargs)
        for has, tokens in kinds:
            if not has:
                _without(self, tokens)


class EmbeddingGemma2Tokenizer(Gemma4Tokenizer):
    """See `Gemma4Tokenizer`."""

    backbone = "EmbeddingGemma2Backbone"


class DiffusionGemmaTokenizer(Gemma4Tokenizer):
    """See `Gemma4Tokenizer`."""

    backbone = "DiffusionGemmaBackbone"


def _without(tokenizer: Any, tokens: Mapping[str, str]) -> None:
    for name in tokens:
        setattr(tokenizer, f"{name}_id", -1)
