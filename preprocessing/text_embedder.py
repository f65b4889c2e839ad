"""Text for encoders whose pooled outputs are compared."""

from __future__ import annotations

from typing import Any

from .text_classifier import SegmentsPreprocessor
from .tokenizers.base import Tokenizer


class TextEmbedderPreprocessor(SegmentsPreprocessor):
    """A text, or several that belong together.

    Args:
        tokenizer: the model's.
        sequence_length: of the rows.
        truncate: see `MultiSegmentPacker`.
    """

    task = "text_embedder"

    def __init__(
        self,
        tokenizer: Tokenizer,
        sequence_length: int = 256,
        truncate: str = "round_robin",
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, sequence_length, truncate, **kwargs)


class BertTextEmbedderPreprocessor(TextEmbedderPreprocessor):
    backbone = "BertBackbone"


class XLMRobertaTextEmbedderPreprocessor(TextEmbedderPreprocessor):
    backbone = "XLMRobertaBackbone"
    inputs = ("token_ids", "padding_mask")


class Gemma3TextEmbedderPreprocessor(TextEmbedderPreprocessor):
    backbone = "Gemma3Backbone"
    inputs = ("token_ids", "padding_mask")


class Qwen3TextEmbedderPreprocessor(TextEmbedderPreprocessor):
    backbone = "Qwen3Backbone"
    inputs = ("token_ids", "padding_mask")
    starts = False


class EmbeddingGemma2TextEmbedderPreprocessor(TextEmbedderPreprocessor):
    """For text alone."""

    backbone = "EmbeddingGemma2Backbone"
    inputs = ("token_ids", "padding_mask")

    def __init__(self, tokenizer: Tokenizer, sequence_length: int = 512, **kwargs: Any) -> None:
        super().__init__(tokenizer, sequence_length, **kwargs)
