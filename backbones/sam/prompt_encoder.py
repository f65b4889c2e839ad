"""Prompts for Segment Anything: points, boxes and masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch

from .._inputs import Images, Input
from .._model import Component
from ..layers.activations import Activation, ActivationLike
from ..layers.convolution import Conv2D, pair
from ..layers.core import Embedding, LayerNormalization
from ..layers.dtypes import DTypeLike
from ..layers.initializers import random_normal
from ..layers.layer import Layer
from ..layers.layout import Kind, Layout
from ..layers.vision import check_at_least

Points = Annotated[torch.Tensor, Input("values", ("batch", "points", "coordinates"))]
Labels = Annotated[torch.Tensor, Input("values", ("batch", "points"))]
Boxes = Annotated[torch.Tensor, Input("values", ("batch", "boxes", "corners", "corner_places"))]
Masks = Annotated[
    torch.Tensor, Input("values", ("batch", "masks", "mask_height", "mask_width", "mask_channels"))
]


class RandomFrequencyPositionalEmbeddings(Layer):
    """Places in an image → sines and cosines of random frequencies, in float32."""

    compute_dtype: torch.dtype | None = None
    positional_encoding_gaussian_matrix: torch.Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.empty(2, features))
        random_normal(0.05)(self.positional_encoding_gaussian_matrix, 2, features)

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        """`[..., 2]`, x and y from 0 to 1 → `[..., 2 · features]`."""
        frequencies = self.positional_encoding_gaussian_matrix
        angles = (2 * places.float() - 1) @ frequencies.float() * (2 * math.pi)
        encoded = torch.cat((angles.sin(), angles.cos()), dim=-1)
        return encoded.to(self.compute_dtype or frequencies.dtype)

    def grid(self, height: int, width: int) -> torch.Tensor:
        """Of the centres of all places, `[height, width, 2 · features]`."""
        device = self.positional_encoding_gaussian_matrix.device
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        return self(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1))


class MaskDownscaler(Layer):
    """A mask → its embedding, at a quarter of height and width."""

    layout = Layout(
        Kind.SEQUENTIAL,
        class_name="Sequential",
        unnamed=("conv1", "norm1", "conv2", "norm2", "conv3"),
    )

    def __init__(self, channels: int, hidden_size: int, activation: ActivationLike) -> None:
        super().__init__()
        self.conv1 = Conv2D(1, channels // 4, 2, 2)
        self.norm1 = LayerNormalization(channels // 4, 1e-6)
        self.conv2 = Conv2D(channels // 4, channels, 2, 2)
        self.norm2 = LayerNormalization(channels, 1e-6)
        self.conv3 = Conv2D(channels, hidden_size, 1)
        self.activation = Activation(activation)

    def forward(self, masks: torch.Tensor) -> torch.Tensor:
        """`[masks, height, width, 1]` → `[masks, height / 4, width / 4, hidden_size]`."""
        x = self.conv1(masks.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = self.activation(self.norm1(x))
        x = self.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = self.activation(self.norm2(x))
        return self.conv3(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SAMPromptEncoder(Component):
    """Points, boxes and masks → embeddings.

    `points` `[batch, points, 2]`, x and y in pixels, with `labels` `[batch, points]`, 0 for the
    background, -1 for what is no point and any other number for the foreground; `boxes`
    `[batch, boxes, 2, 2]`, the points at top left and bottom right; `masks`
    `[batch, masks, 4 · rows, 4 · columns, 1]` → `prompt_sparse_embeddings`
    `[batch, points + 2 · boxes, hidden_size]`; `prompt_dense_embeddings`
    `[batch · masks, rows, columns, hidden_size]`, without masks one for each of the batch; and
    `prompt_dense_positional_embeddings` `[1, rows, columns, hidden_size]`. Any of them may be left
    out, or be empty; of `images` only the number counts.

    Args:
        hidden_size: width of the embeddings, an even number.
        image_embedding_size: rows and columns of the image's embedding.
        input_image_size: height and width of the images, in pixels.
        mask_in_channels: channels that a mask becomes before its embedding.
        activation: between the convolutions of masks.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an odd `hidden_size`, fewer than four `mask_in_channels`; points without labels
            or labels without points, points and corners that are no pairs, masks of another size,
            or no input at all.
    """

    keras_module = "keras_hub.src.models.sam.sam_prompt_encoder"
    hidden_size: int
    image_embedding_size: Sequence[int]
    input_image_size: Sequence[int]

    def __init__(
        self,
        *,
        hidden_size: int = 256,
        image_embedding_size: Sequence[int] = (64, 64),
        input_image_size: Sequence[int] = (1024, 1024),
        mask_in_channels: int = 16,
        activation: ActivationLike = "gelu",
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if hidden_size % 2:
            raise ValueError(
                f"hidden_size={hidden_size} must be even: half are sines, half cosines."
            )
        check_at_least(4, mask_in_channels=mask_in_channels)
        pair(image_embedding_size, "image_embedding_size")
        self.positional_embedding_layer = RandomFrequencyPositionalEmbeddings(hidden_size // 2)
        self.foreground_point_embed = Embedding(1, hidden_size)
        self.background_point_embed = Embedding(1, hidden_size)
        self.top_left_corner_embed = Embedding(1, hidden_size)
        self.bottom_right_corner_embed = Embedding(1, hidden_size)
        self.not_a_point_embed = Embedding(1, hidden_size)
        self.mask_downscaler = MaskDownscaler(mask_in_channels, hidden_size, activation)
        self.no_mask_embed = Embedding(1, hidden_size)

    @property
    def layout(self) -> Layout:
        return Layout(unnamed=("positional_embedding_layer",))

    def forward(
        self,
        images: Images | None = None,
        points: Points | None = None,
        labels: Labels | None = None,
        boxes: Boxes | None = None,
        masks: Masks | None = None,
    ) -> dict[str, torch.Tensor]:
        given = [x for x in (points, boxes, masks, images) if x is not None]
        if not given:
            raise ValueError("Give one of images, points, boxes and masks.")
        self.check_prompts(points, labels, boxes, masks)
        batch = given[0].shape[0]
        sparse = []
        if points is not None and labels is not None:
            sparse.append(self.embed_points(points, labels))
        if boxes is not None:
            sparse.append(self.embed_boxes(boxes))
        none = self.no_mask_embed.weight.new_empty(batch, 0, self.hidden_size)
        height, width = self.image_embedding_size
        return {
            "prompt_sparse_embeddings": torch.cat(sparse, dim=1) if sparse else none,
            "prompt_dense_embeddings": self.embed_masks(masks, batch),
            "prompt_dense_positional_embeddings": self.positional_embedding_layer.grid(
                height, width
            )[None],
        }

    def check_prompts(
        self,
        points: torch.Tensor | None,
        labels: torch.Tensor | None,
        boxes: torch.Tensor | None,
        masks: torch.Tensor | None,
    ) -> None:
        """Refuse what cannot be embedded, before anything is."""
        if (points is None) != (labels is None):
            there, missing = ("labels", "points") if points is None else ("points", "labels")
            raise ValueError(f"{there} need {missing}, one for each; leave both out for none.")
        for name, places in (("points", points), ("boxes", boxes)):
            if places is not None and places.shape[-1] != 2:
                raise ValueError(
                    f"{name} must end in x and y, not be of shape {tuple(places.shape)}."
                )
        if boxes is not None and boxes.shape[2] != 2:
            raise ValueError(
                "boxes must have two corners, at top left and bottom right, "
                f"`[batch, boxes, 2, 2]`, not shape {tuple(boxes.shape)}."
            )
        if masks is None or masks.shape[1] == 0:
            return
        height, width = self.image_embedding_size
        size = (masks.shape[2] // 4, masks.shape[3] // 4, masks.shape[4])
        if size != (height, width, 1):
            raise ValueError(
                f"masks must be of height, width and channels {4 * height} × {4 * width} × 1, four "
                f"times image_embedding_size; those of shape {tuple(masks.shape)} are not. Resize "
                "them."
            )

    def encode(self, places: torch.Tensor) -> torch.Tensor:
        """Places in pixels, x and y."""
        height, width = self.input_image_size
        scale = torch.tensor((width, height), device=places.device)
        return self.positional_embedding_layer((places.float() + 0.5) / scale)

    def embed_points(self, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`[batch, points, hidden_size]`."""
        x, labels = self.encode(points), labels[..., None]
        first = torch.zeros((), dtype=torch.long, device=x.device)
        kind = torch.where(
            labels == 0, self.background_point_embed(first), self.foreground_point_embed(first)
        )
        return torch.where(labels == -1, self.not_a_point_embed(first), x + kind)

    def embed_boxes(self, boxes: torch.Tensor) -> torch.Tensor:
        """`[batch, 2 · boxes, hidden_size]`."""
        first = torch.zeros(1, dtype=torch.long, device=boxes.device)
        corners = (self.top_left_corner_embed(first), self.bottom_right_corner_embed(first))
        return (self.encode(boxes) + torch.cat(corners)).flatten(1, 2)

    def embed_masks(self, masks: torch.Tensor | None, batch: int) -> torch.Tensor:
        """`[batch · masks, rows, columns, hidden_size]`."""
        if masks is None or masks.shape[1] == 0:
            height, width = self.image_embedding_size
            first = torch.zeros((), dtype=torch.long, device=self.device)
            return self.no_mask_embed(first).expand(batch, height, width, -1)
        return self.mask_downscaler(masks.flatten(0, 1))
