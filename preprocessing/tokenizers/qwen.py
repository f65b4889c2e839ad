"""Qwen's tokenizers: composed text, every digit alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .base import named
from .byte_pair import BytePairTokenizer
from .foreign import Foreign


class QwenTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`."""

    backbone = "QwenBackbone"
    turn_ends = ("<|im_end|>",)
    normalizes = True
    is_rebuilt = True
    split_pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    special = named(end_token="<|endoftext|>")


Qwen2Tokenizer = QwenTokenizer


class QwenMoeTokenizer(QwenTokenizer):
    """See `BytePairTokenizer`."""

    backbone = "QwenMoeBackbone"
    is_rebuilt = False


class Qwen3Tokenizer(QwenTokenizer):
    """See `BytePairTokenizer`."""

    backbone = "Qwen3Backbone"
    is_rebuilt = False
    turn_ends = ("<|endoftext|>",)
    special = named(end_token="<|im_end|>", pad_token="<|endoftext|>")


class Qwen3MoeTokenizer(Qwen3Tokenizer):
    """See `BytePairTokenizer`."""

    backbone = "Qwen3MoeBackbone"


class Qwen3_5Tokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`; marks belong to the letters that they follow.

    Args:
        has_vision_tokens: whether there are tokens for images and videos.
    """

    backbone = "Qwen3_5Backbone"
    turn_ends = ("<|endoftext|>",)
    normalizes = True
    is_rebuilt = True
    split_pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    text_tokens = named(
        end_token="<|im_end|>", pad_token="<|endoftext|>", im_start_token="<|im_start|>"
    )
    vision_tokens = named(
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
    )

    def __init__(
        self,
        vocabulary: Any = None,
        merges: Any = None,
        has_vision_tokens: bool = True,
        *,
        unsplittable_tokens: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.has_vision_tokens = has_vision_tokens
        self.special = {**self.text_tokens, **(self.vision_tokens if has_vision_tokens else {})}
        if unsplittable_tokens is None:  # whoever has images puts in the others as ids
            unsplittable_tokens = self.text_tokens.values()
        super().__init__(vocabulary, merges, unsplittable_tokens=unsplittable_tokens, **kwargs)

    @classmethod
    def special_arguments(cls, files: Foreign, vocabulary: Mapping[str, int]) -> dict[str, Any]:
        return {"has_vision_tokens": vocabulary.keys() >= set(cls.vision_tokens.values())}


class Qwen3_5MoeTokenizer(Qwen3_5Tokenizer):
    """See `Qwen3_5Tokenizer`."""

    backbone = "Qwen3_5MoeBackbone"
