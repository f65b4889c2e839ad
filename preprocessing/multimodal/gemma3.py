"""Gemma 3: images within prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ..causal_lm import detokenized
from ..images.converter import ImageConverter
from ..images.inputs import one_image
from ..preprocessor import with_labels
from ..tokenizers.base import Tokenizer
from .texts import Medium, PromptsPreprocessor, batched, each_text, unbatched


class Gemma3CausalLMPreprocessor(PromptsPreprocessor):
    """Prompts, in which `<start_of_image>` stands where an image is, and responses.

    Without an `image_converter` it is for text alone: `token_ids` and `padding_mask`. With one
    there are `images` `[batch, max_images_per_prompt, height, width, 3]`, of which those that a
    sample does not have are black, `vision_indices`, where their tokens are, filled up with 0, and
    `vision_mask`; where no sample has images there are none.

    Args:
        tokenizer: the model's.
        image_converter: the model's.
        sequence_length: of the rows.
        add_start_token: whether a prompt begins with the start token.
        add_end_token: whether a response ends with the end token.
        max_images_per_prompt: the most that a sample may have.
        num_vision_tokens_per_image: of an image.
    """

    backbone = "Gemma3Backbone"
    processor = "Gemma3Processor"
    settings: ClassVar = {"image_seq_length": "vision_encoder.num_vision_tokens_per_image"}
    token_keys: ClassVar = {
        "image_token_index": "image_placeholder_id",
        "boi_token_index": "start_of_image_token_id",
        "eoi_token_index": "end_of_image_token_id",
    }
    media: ClassVar = {"image": Medium("images", "<start_of_image>")}
    tokenizer: Any
    image_converter: ImageConverter | None

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_converter: ImageConverter | None = None,
        sequence_length: int = 1024,
        add_start_token: bool = True,
        add_end_token: bool = True,
        max_images_per_prompt: int = 2,
        num_vision_tokens_per_image: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, sequence_length, add_start_token, add_end_token, **kwargs)
        most = max_images_per_prompt * num_vision_tokens_per_image
        if image_converter is not None and sequence_length <= most:
            raise ValueError(
                f"sequence_length is {sequence_length}; {max_images_per_prompt} images of "
                f"{num_vision_tokens_per_image} tokens need more than {most}."
            )
        self.image_converter = image_converter
        self.max_images_per_prompt = max_images_per_prompt
        self.num_vision_tokens_per_image = num_vision_tokens_per_image

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
            x: mapping of `prompts`, `responses` and perhaps `images`, of one or several samples;
                or a list of mappings. A sample has an image or a list of them.
            y: ignored, as is `sample_weight`.
            sequence_length: in place of the preprocessor's.
        """
        x, several = batched(x, ("prompts", "responses"))
        length = (sequence_length or self.sequence_length) + 1
        x["prompts"] = self._with_places(x["prompts"])
        ids, response, mask = self.pack(x, length, self.add_end_token, self.add_start_token)
        inputs = {"token_ids": ids[:, :-1], "padding_mask": mask[:, :-1]}
        inputs |= self._vision(x, inputs["token_ids"])
        return with_labels(*unbatched((inputs, ids[:, 1:], response[:, 1:]), several))

    def generate_preprocess(self, x: Any, sequence_length: int | None = None) -> Any:
        """To generate from: the backbone's inputs, without an end token."""
        x, several = batched(x)
        x["prompts"] = self._with_places(x["prompts"])
        ids, _, mask = self.pack(x, sequence_length or self.sequence_length, ends=False)
        return unbatched({"token_ids": ids, "padding_mask": mask, **self._vision(x, ids)}, several)

    def generate_postprocess(self, x: Mapping[str, Any]) -> Any:
        """Text of what was generated, without padding and special tokens."""
        kept = () if self.image_converter is None else (self.tokenizer.start_of_image_token_id,)
        return detokenized(self.tokenizer, x["token_ids"], x["padding_mask"], kept)

    def _with_places(self, prompts: Any) -> Any:
        """Prompts with a token for each token of an image."""
        if self.image_converter is None:
            return prompts
        start, end = self.tokenizer.start_of_image_token, self.tokenizer.end_of_image_token
        places = self.tokenizer.image_placeholder * self.num_vision_tokens_per_image
        return each_text(prompts, lambda one: one.replace(start, f"\n\n{start}{places}{end}\n\n"))

    def _vision(self, x: Mapping[str, Any], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images, and where their tokens are."""
        images = x.get("images")
        if self.image_converter is None:
            if images is not None:
                raise ValueError("There are images, but no image_converter.")
            return {}
        if images is None:
            height, width = self.image_converter.image_size or (0, 0)
            return {
                "images": torch.ones(len(ids), 0, height, width, 3),
                "vision_indices": torch.zeros(len(ids), 0, dtype=torch.int32),
                "vision_mask": torch.zeros_like(ids, dtype=torch.bool),
            }
        mask = ids == self.tokenizer.image_placeholder_id
        most = self.max_images_per_prompt * self.num_vision_tokens_per_image
        return {
            "images": convert_rows(self.image_converter, images, self.max_images_per_prompt),
            "vision_indices": places_of(mask, most),
            "vision_mask": mask,
        }


def convert_rows(converter: ImageConverter, rows: Any, most: int) -> torch.Tensor:
    """Images of samples `[batch, most, height, width, 3]`, those that are missing black.

    Args:
        rows: for each sample an image or several.

    Raises:
        ValueError: a sample has more than `most` images.
    """
    converted: list[torch.Tensor] = []
    samples = [images_of_sample(row) for row in rows]
    like = next((image for images in samples for image in images), torch.zeros(1, 1, 3))
    fewest = min(map(len, samples))
    black = converter(torch.zeros_like(like)) if fewest < most else None
    for images in samples:
        if len(images) > most:
            raise ValueError(f"A sample has {len(images)} images; {most} are the most.")
        found = [converter(image) for image in images]
        converted.append(torch.stack([*found, *[black] * (most - len(found))]))  # type: ignore
    return torch.stack(converted)


def images_of_sample(row: Any) -> list[torch.Tensor]:
    """The images of a sample that has one, several or none."""
    if row is None:
        return []
    if isinstance(row, (list, tuple)):
        items = [one_image(item) for item in row]
        if any(item.ndim < 3 for item in items):  # an image itself, in nested lists
            return [one_image(row)]
        return items
    images = one_image(row)
    return [images] if images.ndim == 3 else list(images)


def places_of(mask: torch.Tensor, most: int) -> torch.Tensor:
    """Where each row `[batch, length]` is true, in order and filled up with 0, `[batch, most]`."""
    rows = [row.nonzero()[:most, 0] for row in mask]
    filled = [torch.nn.functional.pad(row, (0, most - len(row))) for row in rows]
    return torch.stack(filled).int()
