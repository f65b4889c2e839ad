"""Text, or a pair of texts, for encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from .packers import MultiSegmentPacker, as_list, check_truncation
from .preprocessor import Preprocessor, samples, with_labels
from .tokenizers.base import Tokenizer


class SegmentsPreprocessor(Preprocessor):
    """Texts of one or several segments → what an encoder takes.

    Attributes:
        inputs: those of the backbone.
        separators: how many end tokens are between two segments.
        starts: whether the start token is before the first one.
    """

    inputs: ClassVar[Sequence[str]] = ("token_ids", "padding_mask", "segment_ids")
    separators: ClassVar[int] = 1
    starts: ClassVar[bool] = True
    tokenizer: Tokenizer

    def __init__(self, tokenizer: Any, sequence_length: int, truncate: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        self.truncate = check_truncation(truncate)

    @property
    def packer(self) -> MultiSegmentPacker:
        tokenizer, end = self.tokenizer, as_list(self.tokenizer.end_token_id)
        return MultiSegmentPacker(
            sequence_length=self.sequence_length,
            start_value=tokenizer.start_token_id if self.starts else [],
            end_value=end,
            sep_value=end * self.separators,
            pad_value=tokenizer.pad_token_id,
            truncate=self.truncate,
        )

    def packed(self, x: Any) -> dict[str, torch.Tensor]:
        """All inputs of texts, those that the backbone does not take included."""
        segments = x if isinstance(x, tuple) else (x,)
        tokens = tuple(self.tokenizer.tokenize(segment) for segment in segments)
        token_ids, segment_ids = self.packer(tokens)
        mask = token_ids != self.tokenizer.pad_token_id
        return {"token_ids": token_ids, "padding_mask": mask, "segment_ids": segment_ids}

    def __call__(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """The backbone's inputs, of one text or of several.

        Args:
            x: a text or a list of them; a tuple of these is a text's segments, in both cases; or
                a list of samples, texts or tuples of texts, a label behind them if there is one.
            y: labels.
            sample_weight: of the labels.

        Returns:
            The inputs; behind them labels and weights, if there are some.
        """
        x, y = samples(x, y)
        found = self.packed(x)
        return with_labels({name: found[name] for name in self.inputs}, y, sample_weight)


class TextClassifierPreprocessor(SegmentsPreprocessor):
    """A text, or several that belong together, with its class.

    Args:
        tokenizer: the model's.
        sequence_length: of the rows.
        truncate: see `MultiSegmentPacker`.
    """

    task = "text_classifier"

    def __init__(
        self,
        tokenizer: Tokenizer,
        sequence_length: int = 512,
        truncate: str = "round_robin",
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, sequence_length, truncate, **kwargs)


class BertTextClassifierPreprocessor(TextClassifierPreprocessor):
    backbone = "BertBackbone"


class AlbertTextClassifierPreprocessor(TextClassifierPreprocessor):
    backbone = "AlbertBackbone"


class RoformerV2TextClassifierPreprocessor(TextClassifierPreprocessor):
    backbone = "RoformerV2Backbone"
    inputs = ("token_ids", "segment_ids")


class FNetTextClassifierPreprocessor(TextClassifierPreprocessor):
    backbone = "FNetBackbone"
    inputs = ("token_ids", "segment_ids")


class DistilBertTextClassifierPreprocessor(TextClassifierPreprocessor):
    backbone = "DistilBertBackbone"
    inputs = ("token_ids", "padding_mask")


class DebertaV3TextClassifierPreprocessor(TextClassifierPreprocessor):
    backbone = "DebertaV3Backbone"
    inputs = ("token_ids", "padding_mask")


class RobertaTextClassifierPreprocessor(TextClassifierPreprocessor):
    backbone = "RobertaBackbone"
    inputs = ("token_ids", "padding_mask")
    separators = 2


class XLMRobertaTextClassifierPreprocessor(TextClassifierPreprocessor):
    backbone = "XLMRobertaBackbone"
    inputs = ("token_ids", "padding_mask")
    separators = 2


class ModernBertTextClassifierPreprocessor(TextClassifierPreprocessor):
    backbone = "ModernBertBackbone"
    inputs = ("token_ids", "padding_mask")


class ESMProteinClassifierPreprocessor(TextClassifierPreprocessor):
    backbone = "ESMBackbone"
    keras_module = "keras_hub.src.models.esm.esm_classifier_preprocessor"
    inputs = ("token_ids",)


BertPreprocessor = BertTextClassifierPreprocessor
AlbertPreprocessor = AlbertTextClassifierPreprocessor
FNetPreprocessor = FNetTextClassifierPreprocessor
DistilBertPreprocessor = DistilBertTextClassifierPreprocessor
DebertaV3Preprocessor = DebertaV3TextClassifierPreprocessor
RobertaPreprocessor = RobertaTextClassifierPreprocessor
XLMRobertaPreprocessor = XLMRobertaTextClassifierPreprocessor
