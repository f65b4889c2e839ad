"""SAM 3: what is to be found in images, by name or by example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..images.converter import ImageConverter, padded_boxes
from ..images.inputs import as_images
from ..packers import StartEndPacker
from ..preprocessor import Preprocessor, samples, with_labels
from ..tokenizers.base import Tokenizer

# Of images whose prompts are boxes alone.
NAMELESS = "visual"


class SAM3PromptableConceptImageSegmenterPreprocessor(Preprocessor):
    """Images with a name, or boxes, of what is to be found in them.

    Args:
        tokenizer: the model's.
        image_converter: the model's.
        sequence_length: of the rows.
        add_start_token: whether a name begins with the start token.
        add_end_token: whether it ends with the end token.
        point_pad_value: label of boxes that stand for none.
    """

    backbone = "SAM3PromptableConceptBackbone"
    processor = "Sam3Processor"
    task = "pc_image_segmenter"
    # KerasHub does not save it.
    lost = ("point_pad_value",)
    tokenizer: Any
    image_converter: ImageConverter

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_converter: ImageConverter,
        sequence_length: int = 32,
        add_start_token: bool = True,
        add_end_token: bool = True,
        point_pad_value: int = -10,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.image_converter = image_converter
        self.sequence_length = sequence_length
        self.add_start_token = add_start_token
        self.add_end_token = add_end_token
        self.point_pad_value = point_pad_value

    def __call__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        sequence_length: int | None = None,
    ) -> Any:
        """The backbone's inputs; labels and weights behind them if there are some.

        Args:
            x: mapping of `images` and, as many, `prompts`, names; `boxes` `[n, 4]` of each image
                in pixels (left, top, right, bottom) and `box_labels`; or a list of mappings.
            y: labels.
            sample_weight: of the labels.
            sequence_length: in place of the preprocessor's.
        """
        x, y = samples(x, y)
        if not isinstance(x, Mapping) or "images" not in x:
            raise ValueError("The input is a dictionary of 'images' and prompts.")
        images = as_images(x["images"], "channels_last")
        several = isinstance(images, list) or images.ndim == 4
        batch = images if isinstance(images, list) or several else images[None]
        rows = list(batch)
        prompts = x.get("prompts")
        if prompts is None:
            prompts = [NAMELESS] * len(rows)
        elif not several and isinstance(prompts, str):
            prompts = [prompts]
        ids, mask = self._packed(prompts, (sequence_length or self.sequence_length) + 1)
        boxes, labels = self._boxes(x, rows, several)
        inputs = {
            "pixel_values": self.image_converter(batch),
            "token_ids": ids[:, :-1],
            "padding_mask": mask[:, :-1],
            "boxes": boxes,
            "box_labels": labels,
        }
        if not several:
            inputs = {key: value[0] for key, value in inputs.items()}
        return with_labels(inputs, y, sample_weight)

    def _packed(self, prompts: Any, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        packer = StartEndPacker(
            sequence_length=length,
            start_value=self.tokenizer.start_token_id,
            end_value=self.tokenizer.end_token_id,
            pad_value=self.tokenizer.pad_token_id,
            return_padding_mask=True,
        )
        ids, mask = packer(
            self.tokenizer.tokenize(prompts),
            add_start_value=self.add_start_token,
            add_end_value=self.add_end_token,
        )
        return ids, mask

    def _boxes(
        self, x: Mapping[str, Any], images: list[torch.Tensor], several: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes `[batch, n, 5]`, the image's number and then the middle and the size as parts of
        the image, and their labels `[batch, n]`.
        """
        pad = self.point_pad_value
        if x.get("boxes") is None:
            return torch.zeros(len(images), 0, 5), torch.zeros(len(images), 0, dtype=torch.int32)
        if x.get("box_labels") is None:
            raise ValueError("boxes need box_labels.")
        given = {"boxes": x["boxes"], "labels": x["box_labels"]}
        if not several:
            given = {key: [value] for key, value in given.items()}
        found = padded_boxes(given, {"boxes": pad, "labels": pad})
        boxes, labels = found["boxes"], found["labels"]
        sizes = [[image.shape[1], image.shape[0]] * 2 for image in images]
        boxes = boxes / boxes.new_tensor(sizes)[:, None]
        boxes = boxes.masked_fill((labels == pad)[..., None], pad)
        left, top, right, bottom = boxes.unbind(-1)
        numbers = torch.arange(len(images), dtype=boxes.dtype)[:, None].expand_as(left)
        parts = [numbers, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        return torch.stack(parts, -1), labels
