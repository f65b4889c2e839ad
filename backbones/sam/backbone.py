"""Segment Anything: the image encoder, and what goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from .._backbone import Backbone
from .._inputs import Images
from ..layers.dtypes import DTypeLike
from ..layers.layout import Kind, Layout, beside, flattened
from ..layers.vision import image_size
from .mask_decoder import SAMMaskDecoder
from .prompt_encoder import Boxes, Labels, Masks, Points, SAMPromptEncoder


class SAMBackbone(Backbone):
    """Embeddings of images and of prompts for what is to be segmented in them.

    `images` `[batch, height, width, channels]`, `points` `[batch, points, 2]`, `labels`
    `[batch, points]`, `boxes` `[batch, boxes, 2, 2]` and `masks`
    `[batch, masks, 4 · rows, 4 · columns, 1]`, see `SAMPromptEncoder` → `image_embeddings`
    `[batch, rows, columns, num_output_channels]`, `prompt_sparse_embeddings`
    `[batch, points + 2 · boxes, hidden_size]`, `prompt_dense_embeddings`
    `[batch · masks, rows, columns, hidden_size]` and `prompt_dense_positional_embeddings`
    `[1, rows, columns, hidden_size]`. Prompts may be left out, or be empty.

    `mask_decoder(outputs)` makes masks of the outputs; it has weights if the preset has.

    Args:
        image_encoder: the Vision Transformer.
        prompt_encoder: what embeds points, boxes and masks.
        mask_decoder: what segments; it has no part in `forward`.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: images of another shape; prompts as in `SAMPromptEncoder`.
    """

    resampled: ClassVar = ("image_shape",)
    deferred: ClassVar = ("mask_decoder",)

    def __init__(
        self,
        image_encoder: Backbone,
        prompt_encoder: SAMPromptEncoder,
        mask_decoder: SAMMaskDecoder,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if image_encoder.class_name != "ViTDetBackbone":
            raise ValueError(
                f"image_encoder must be a ViTDetBackbone, not a {image_encoder.class_name}."
            )
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

    @property
    def layout(self) -> Layout:
        return Layout(
            Kind.GRAPH,
            inside={"image_encoder": flattened, "mask_decoder": beside},
            assigned=("image_encoder", "prompt_encoder", "mask_decoder"),
        )

    def config_for(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """The prompts are for the same images."""
        config = super().config_for(sizes)
        for shape in sizes.values():
            height, width = image_size(shape, "channels_last")
            patch: Any = self.image_encoder.patch_size
            config["prompt_encoder"]["config"] |= {
                "input_image_size": (height, width),
                "image_embedding_size": (height // patch, width // patch),
            }
        return config

    def forward(
        self,
        images: Images,
        points: Points | None = None,
        labels: Labels | None = None,
        boxes: Boxes | None = None,
        masks: Masks | None = None,
    ) -> dict[str, torch.Tensor]:
        self.prompt_encoder.check_prompts(points, labels, boxes, masks)
        return {
            "image_embeddings": self.image_encoder(images),
            **self.prompt_encoder(images, points, labels, boxes, masks),
        }
