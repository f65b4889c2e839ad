"""Text with masked tokens, for encoders that learn to find them."""

from __future__ import annotations

from typing import Any

from .masking import MaskedLMMaskGenerator
from .preprocessor import samples, with_labels
from .text_classifier import SegmentsPreprocessor
from .tokenizers.base import Tokenizer


class MaskedLMPreprocessor(SegmentsPreprocessor):
    """A text, or several that belong together, some tokens of which are masked.

    Args:
        tokenizer: the model's.
        sequence_length: of the rows.
        truncate: see `MultiSegmentPacker`.
        mask_selection_rate: see `MaskedLMMaskGenerator`, as for those that follow.
        mask_selection_length: most tokens chosen in a row.
        mask_token_rate: share of them that are masked.
        random_token_rate: share of them that are replaced.
    """

    task = "masked_lm"

    def __init__(
        self,
        tokenizer: Tokenizer,
        sequence_length: int = 512,
        truncate: str = "round_robin",
        mask_selection_rate: float = 0.15,
        mask_selection_length: int = 96,
        mask_token_rate: float = 0.8,
        random_token_rate: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, sequence_length, truncate, **kwargs)
        self.mask_selection_rate = mask_selection_rate
        self.mask_selection_length = mask_selection_length
        self.mask_token_rate = mask_token_rate
        self.random_token_rate = random_token_rate

    @property
    def masker(self) -> MaskedLMMaskGenerator:
        tokenizer = self.tokenizer
        assert tokenizer.mask_token_id is not None
        return MaskedLMMaskGenerator(
            vocabulary_size=tokenizer.vocabulary_size(),
            mask_selection_rate=self.mask_selection_rate,
            mask_token_id=tokenizer.mask_token_id,
            mask_selection_length=self.mask_selection_length,
            unselectable_token_ids=tokenizer.special_token_ids,
            mask_token_rate=self.mask_token_rate,
            random_token_rate=self.random_token_rate,
        )

    def __call__(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Inputs with `mask_positions`, the tokens there, and weights, 0 where none is masked.

        Args:
            x: as of `TextClassifierPreprocessor`.
            y: ignored, as is `sample_weight`.
        """
        found = self.packed(samples(x)[0])
        masked = self.masker(found["token_ids"])
        inputs = {name: found[name] for name in self.inputs}
        inputs |= {name: masked[name] for name in ("token_ids", "mask_positions")}
        return with_labels(inputs, masked["mask_ids"], masked["mask_weights"])


class BertMaskedLMPreprocessor(MaskedLMPreprocessor):
    backbone = "BertBackbone"


class AlbertMaskedLMPreprocessor(MaskedLMPreprocessor):
    backbone = "AlbertBackbone"


class RoformerV2MaskedLMPreprocessor(MaskedLMPreprocessor):
    backbone = "RoformerV2Backbone"
    inputs = ("token_ids", "segment_ids")


class FNetMaskedLMPreprocessor(MaskedLMPreprocessor):
    backbone = "FNetBackbone"
    inputs = ("token_ids", "segment_ids")


class DistilBertMaskedLMPreprocessor(MaskedLMPreprocessor):
    backbone = "DistilBertBackbone"
    inputs = ("token_ids", "padding_mask")


class DebertaV3MaskedLMPreprocessor(MaskedLMPreprocessor):
    backbone = "DebertaV3Backbone"
    inputs = ("token_ids", "padding_mask")


class RobertaMaskedLMPreprocessor(MaskedLMPreprocessor):
    backbone = "RobertaBackbone"
    inputs = ("token_ids", "padding_mask")
    separators = 2


class XLMRobertaMaskedLMPreprocessor(MaskedLMPreprocessor):
    backbone = "XLMRobertaBackbone"
    inputs = ("token_ids", "padding_mask")
    separators = 2


class ModernBertMaskedLMPreprocessor(MaskedLMPreprocessor):
    backbone = "ModernBertBackbone"
    inputs = ("token_ids", "padding_mask")


class ESMMaskedPLMPreprocessor(MaskedLMPreprocessor):
    backbone = "ESMBackbone"
    keras_module = "keras_hub.src.models.esm.esm_masked_plm_preprocessor"
    inputs = ("token_ids",)
