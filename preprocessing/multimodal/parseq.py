"""PARSeq: images of words."""

from __future__ import annotations

from typing import Any

import torch

from ..causal_lm import CausalLMPreprocessor
from ..images.converter import ImageConverter
from ..preprocessor import samples, with_labels
from ..tokenizers.base import Tokenizer


class PARSeqCausalLMPreprocessor(CausalLMPreprocessor):
    """Images, and the words that are to be read.

    Args:
        image_converter: the model's; without one images are left as they are.
        tokenizer: the model's.
        sequence_length: of the rows.
        add_start_token: whether a word begins with the start token.
        add_end_token: whether it ends with the end token.
    """

    backbone = "PARSeqBackbone"
    tokenizer: Any
    image_converter: ImageConverter | None

    def __init__(
        self,
        image_converter: ImageConverter | None = None,
        tokenizer: Tokenizer | None = None,
        sequence_length: int = 25,
        add_start_token: bool = True,
        add_end_token: bool = True,
        **kwargs: Any,
    ) -> None:
        if tokenizer is None:
            raise TypeError("PARSeqCausalLMPreprocessor needs a tokenizer.")
        super().__init__(tokenizer, sequence_length, add_start_token, add_end_token, **kwargs)
        self.image_converter = image_converter

    def __call__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        sequence_length: int | None = None,
    ) -> Any:
        """To train on: the backbone's inputs, the characters that follow, and which count.

        Args:
            x: mapping of `images` and `responses`, of one or several samples; or a list of
                mappings.
            y: ignored, as is `sample_weight`.
            sequence_length: in place of the preprocessor's.
        """
        x = samples(x)[0]
        missing = [name for name in ("images", "responses") if x.get(name) is None]
        if missing:
            raise ValueError(f"The input has no {' and no '.join(map(repr, missing))}.")
        inputs, *rest = super().__call__(x["responses"], sequence_length=sequence_length)
        return with_labels({"images": self._images(x["images"]), **inputs}, *rest)

    def generate_preprocess(self, x: Any, sequence_length: int | None = None) -> Any:
        """To read from: images, each with a start token."""
        images = self._images(x)
        length = sequence_length or self.sequence_length
        count = len(images) if images.ndim == 4 else 1
        ids = torch.full((count, length), self.tokenizer.pad_token_id, dtype=torch.int32)
        ids[:, 0] = self.tokenizer.start_token_id
        mask = ids == self.tokenizer.start_token_id
        return {"images": images, "token_ids": ids, "padding_mask": mask}

    def _images(self, images: Any) -> Any:
        return images if self.image_converter is None else self.image_converter(images)
