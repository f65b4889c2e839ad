"""PaliGemma: an image before a prompt and its response."""

from __future__ import annotations

from typing import Any, ClassVar

from ..images.converter import ImageConverter
from ..preprocessor import with_labels
from ..tokenizers.base import Tokenizer
from .texts import Medium, PromptsPreprocessor, batched, unbatched


class PaliGemmaCausalLMPreprocessor(PromptsPreprocessor):
    """Images, prompts and responses for PaliGemma.

    Args:
        tokenizer: the model's.
        image_converter: the model's; without one images are left as they are.
        sequence_length: of the rows.
        add_start_token: whether a prompt begins with the start token.
        add_end_token: whether a response ends with the end token.
    """

    backbone = "PaliGemmaBackbone"
    processor = "PaliGemmaProcessor"
    settings: ClassVar = {"image_seq_length": "image_sequence_length"}
    media: ClassVar = {"image": Medium("images", several=False)}
    image_converter: ImageConverter | None

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_converter: ImageConverter | None = None,
        sequence_length: int = 1024,
        add_start_token: bool = True,
        add_end_token: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, sequence_length, add_start_token, add_end_token, **kwargs)
        self.image_converter = image_converter

    def __call__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        sequence_length: int | None = None,
    ) -> Any:
        """To train on: the backbone's inputs, the tokens that follow, and which of these belong to
        responses.

        Args:
            x: mapping of `images`, `prompts` and `responses`, of one or several samples; or a list
                of mappings.
            y: ignored, as is `sample_weight`.
            sequence_length: in place of the preprocessor's.
        """
        x, several = batched(x, ("images", "prompts", "responses"))
        length = (sequence_length or self.sequence_length) + 1
        ids, response, mask = self.pack(x, length, self.add_end_token, self.add_start_token)
        inputs = {
            "token_ids": ids[:, :-1],
            "response_mask": response[:, :-1],
            "padding_mask": mask[:, :-1],
            "images": self._images(x["images"]),
        }
        return with_labels(*unbatched((inputs, ids[:, 1:], response[:, 1:]), several))

    def generate_preprocess(self, x: Any, sequence_length: int | None = None) -> Any:
        """To generate from: the backbone's inputs, without an end token."""
        x, several = batched(x, ("images", "prompts"))
        ids, response, mask = self.pack(x, sequence_length or self.sequence_length, ends=False)
        inputs = {
            "images": self._images(x["images"]),
            "token_ids": ids,
            "response_mask": response,
            "padding_mask": mask,
        }
        return unbatched(inputs, several)

    def _images(self, images: Any) -> Any:
        if isinstance(images, (list, tuple)) and any(image is None for image in images):
            raise ValueError("Every prompt must have an image.")
        return images if self.image_converter is None else self.image_converter(images)
