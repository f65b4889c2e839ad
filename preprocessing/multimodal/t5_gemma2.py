"""T5Gemma 2: images within the encoder's text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ..images.converter import ImageConverter
from ..preprocessor import samples, with_labels
from ..seq_2_seq_lm import Seq2SeqLMPreprocessor
from ..tokenizers.base import Tokenizer
from .gemma3 import convert_rows, places_of
from .texts import each_text

START, PLACE, END = "<start_of_image>", "<image_soft_token>", "<end_of_image>"


class T5Gemma2Seq2SeqLMPreprocessor(Seq2SeqLMPreprocessor):
    """A text for the encoder, in which `<start_of_image>` stands where an image is, and one for
    the decoder.

    With an `image_size` there are `images` `[batch, 1, size, size, 3]`, zeros where there is none,
    and `vision_indices`, where their tokens are.

    Args:
        tokenizer: the model's.
        encoder_sequence_length: of the encoder's rows.
        decoder_sequence_length: of the decoder's rows.
        image_converter: the model's; without one it is for text alone.
        image_size: of the model's images; `None` for a model without.
        num_vision_tokens_per_image: of an image.
        add_start_token: whether the encoder's text begins with the start token.
        add_end_token: whether texts end with the end token.
    """

    backbone = "T5Gemma2Backbone"
    processor = "Gemma3Processor"
    settings: ClassVar = {"image_seq_length": "vision_encoder.num_vision_tokens_per_image"}
    image_converter: ImageConverter | None

    def __init__(
        self,
        tokenizer: Tokenizer,
        encoder_sequence_length: int = 512,
        decoder_sequence_length: int = 512,
        image_converter: ImageConverter | None = None,
        image_size: int | None = None,
        num_vision_tokens_per_image: int | None = None,
        add_start_token: bool = False,
        add_end_token: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, encoder_sequence_length, decoder_sequence_length, **kwargs)
        self.image_converter = image_converter
        self.image_size = image_size
        self.num_vision_tokens_per_image = num_vision_tokens_per_image
        self.add_start_token = add_start_token
        self.add_end_token = add_end_token
        starts = {"add_start_value": add_start_token}
        self.encoder_marks = {**starts, "add_end_value": add_end_token}
        self.generating_marks = {**starts, "add_end_value": False}
        self.decoder_ends = add_end_token

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """As of `Seq2SeqLMPreprocessor`; the mapping may have `images`, too."""
        x = self._with_places(samples(x)[0])
        inputs, *rest = super().__call__(x, *args, **kwargs)
        return with_labels({**inputs, **self._vision(x, inputs["encoder_token_ids"])}, *rest)

    def generate_preprocess(self, x: Any, **kwargs: Any) -> Any:
        """As of `Seq2SeqLMPreprocessor`; the mapping may have `images`, too."""
        x = self._with_places(x)
        # KerasHub's, too, does without the length that a call gives.
        kwargs.pop("encoder_sequence_length", None)
        inputs = super().generate_preprocess(x, **kwargs)
        return {**inputs, **self._vision(x, inputs["encoder_token_ids"])}

    def _with_places(self, x: Any) -> Any:
        """Encoder texts with a token for each token of an image."""
        if self.image_size is None:
            return x
        if isinstance(x, Mapping):
            return {**x, "encoder_text": self._with_places(x["encoder_text"])}
        places = PLACE * (self.num_vision_tokens_per_image or 0)
        return each_text(x, lambda one: one.replace(START, f"\n\n{START}{places}{END}\n\n"))

    def _vision(self, x: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images, and where their tokens are."""
        images = x.get("images") if isinstance(x, Mapping) else None
        if self.image_size is None or (images is not None and self.image_converter is None):
            if images is not None:
                raise ValueError("There are images, but no image_converter, or no image_size.")
            return {}
        size, most = self.image_size, self.num_vision_tokens_per_image or 0
        rows = ids if ids.ndim == 2 else ids[None]
        if images is None or self.image_converter is None:
            found = {
                "images": torch.zeros(len(rows), 1, size, size, 3),
                "vision_indices": torch.zeros(len(rows), most, dtype=torch.int32),
            }
        else:
            given = images if ids.ndim == 2 else [images]
            found = {
                "images": convert_rows(self.image_converter, given, 1).float(),
                "vision_indices": places_of(rows == self.tokenizer.token_to_id(PLACE), most),
            }
        return found if ids.ndim == 2 else {key: one[0] for key, one in found.items()}
