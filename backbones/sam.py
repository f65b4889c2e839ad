"""Segment Anything (arXiv:2304.02643)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar

import torch

from ._backbone import Backbone
from ._inputs import Images, Input
from ._model import Component
from .layers.activations import Activation, ActivationLike
from .layers.attention import attend, merge_heads, split_heads
from .layers.convolution import Conv2D, Conv2DTranspose
from .layers.core import Dense, Embedding, LayerNormalization
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal
from .layers.layer import Layer
from .layers.layout import Kind, Layout, Parts, Sequential, Stack, beside, flattened
from .layers.transformer import head_dim
from .layers.vision import check_at_least

__all__ = ["SAMBackbone", "SAMMaskDecoder", "SAMPromptEncoder"]

Points = Annotated[torch.Tensor, Input("values", ("batch", "points", "coordinates"))]
Labels = Annotated[torch.Tensor, Input("values", ("batch", "points"))]
Boxes = Annotated[torch.Tensor, Input("values", ("batch", "boxes", "corners", "coordinates"))]
Masks = Annotated[
    torch.Tensor, Input("values", ("batch", "masks", "mask_height", "mask_width", "mask_channels"))
]
Map = Annotated[torch.Tensor, Input("values", ("batch", "rows", "columns", "dim"))]
MapOfAny = Annotated[torch.Tensor, Input("values", ("images", "rows", "columns", "dim"))]
Positions = Annotated[torch.Tensor, Input("values", ("one", "rows", "columns", "dim"))]
Tokens = Annotated[torch.Tensor, Input("values", ("batch", "tokens", "dim"))]


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
        if (points is None) != (labels is None):
            there, missing = ("labels", "points") if points is None else ("points", "labels")
            raise ValueError(f"{there} need {missing}, one for each; leave both out for none.")
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

    def encode(self, name: str, places: torch.Tensor) -> torch.Tensor:
        """Places in pixels, x and y."""
        if places.shape[-1] != 2:
            raise ValueError(f"{name} must end in x and y, not be of shape {tuple(places.shape)}.")
        height, width = self.input_image_size
        scale = torch.tensor((width, height), device=places.device)
        return self.positional_embedding_layer((places.float() + 0.5) / scale)

    def embed_points(self, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`[batch, points, hidden_size]`."""
        x, labels = self.encode("points", points), labels[..., None]
        first = torch.zeros((), dtype=torch.long, device=x.device)
        kind = torch.where(
            labels == 0, self.background_point_embed(first), self.foreground_point_embed(first)
        )
        return torch.where(labels == -1, self.not_a_point_embed(first), x + kind)

    def embed_boxes(self, boxes: torch.Tensor) -> torch.Tensor:
        """`[batch, 2 · boxes, hidden_size]`."""
        if boxes.shape[2] != 2:
            raise ValueError(
                "boxes must have two corners, at top left and bottom right, "
                f"`[batch, boxes, 2, 2]`, not shape {tuple(boxes.shape)}."
            )
        first = torch.zeros(1, dtype=torch.long, device=boxes.device)
        corners = (self.top_left_corner_embed(first), self.bottom_right_corner_embed(first))
        return (self.encode("boxes", boxes) + torch.cat(corners)).flatten(1, 2)

    def embed_masks(self, masks: torch.Tensor | None, batch: int) -> torch.Tensor:
        """`[batch · masks, rows, columns, hidden_size]`."""
        height, width = self.image_embedding_size
        if masks is None or masks.shape[1] == 0:
            first = torch.zeros((), dtype=torch.long, device=self.device)
            return self.no_mask_embed(first).expand(batch, height, width, -1)
        size = (masks.shape[2] // 4, masks.shape[3] // 4, masks.shape[4])
        if size != (height, width, 1):
            raise ValueError(
                f"masks must be of height, width and channels {4 * height} × {4 * width} × 1, four "
                f"times image_embedding_size; those of shape {tuple(masks.shape)} are not. Resize "
                "them."
            )
        return self.mask_downscaler(masks.flatten(0, 1))


class MultiHeadAttentionWithDownsampling(Layer):
    """Attention in which heads are narrower than their part of the hidden states."""

    layout = Layout(unnamed=("query_proj", "key_proj", "value_proj", "out_proj"))

    def __init__(self, hidden_size: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        self.num_heads = num_heads
        width = head_dim(hidden_size, num_heads) // downsample_rate * num_heads
        self.query_proj = Dense(hidden_size, width)
        self.key_proj = Dense(hidden_size, width)
        self.value_proj = Dense(hidden_size, width)
        self.out_proj = Dense(width, hidden_size)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """`[batch, length, dim]` → the same, of the query's length."""
        query = split_heads(self.query_proj(query), self.num_heads)
        key = split_heads(self.key_proj(key), self.num_heads)
        value = split_heads(self.value_proj(value), self.num_heads)
        return self.out_proj(merge_heads(attend(query, key, value)))


class SAMMLP(Layer):
    layout = Layout(class_name="MLP", unnamed=("mlp_block",))

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (num_layers - 1)]
        hidden = [layer for a, b in pairwise(widths) for layer in (Dense(a, b), Activation("relu"))]
        self.mlp_block = Sequential(*hidden, Dense(widths[-1], out_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp_block(x)


class TwoWayMultiHeadAttention(Layer):
    """Tokens attend to each other and to the image, then the image to the tokens.

    Args:
        first: whether this is the first block, whose tokens are their own positions.
    """

    layout = Layout(
        unnamed=(
            "self_attention",
            "layer_norm1",
            "cross_attention_token_to_image",
            "layer_norm2",
            "mlp_block",
            "layer_norm3",
            "cross_attention_image_to_token",
            "layer_norm4",
        )
    )

    def __init__(
        self, hidden_size: int, num_heads: int, intermediate_dim: int, first: bool
    ) -> None:
        super().__init__()
        self.first = first
        self.self_attention = MultiHeadAttentionWithDownsampling(hidden_size, num_heads)
        self.layer_norm1 = LayerNormalization(hidden_size, 1e-5)
        self.cross_attention_token_to_image = MultiHeadAttentionWithDownsampling(
            hidden_size, num_heads, 2
        )
        self.layer_norm2 = LayerNormalization(hidden_size, 1e-5)
        self.mlp_block = SAMMLP(hidden_size, intermediate_dim, hidden_size, 2)
        self.layer_norm3 = LayerNormalization(hidden_size, 1e-5)
        self.cross_attention_image_to_token = MultiHeadAttentionWithDownsampling(
            hidden_size, num_heads, 2
        )
        self.layer_norm4 = LayerNormalization(hidden_size, 1e-5)

    def forward(
        self,
        tokens: torch.Tensor,
        image: torch.Tensor,
        token_positions: torch.Tensor,
        image_positions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens `[batch, tokens, dim]` and image `[batch, places, dim]` → the same."""
        if self.first:
            tokens = self.self_attention(tokens, tokens, tokens)
        else:
            placed = tokens + token_positions
            tokens = tokens + self.self_attention(placed, placed, tokens)
        tokens = self.layer_norm1(tokens)
        seen = self.cross_attention_token_to_image(
            tokens + token_positions, image + image_positions, image
        )
        tokens = self.layer_norm2(tokens + seen)
        tokens = self.layer_norm3(tokens + self.mlp_block(tokens))
        seen = self.cross_attention_image_to_token(
            image + image_positions, tokens + token_positions, tokens
        )
        return tokens, self.layer_norm4(image + seen)


class TwoWayTransformer(Layer):
    layout = Layout(unnamed=("final_attention_token_to_image", "final_layer_norm"))

    def __init__(
        self, num_layers: int, hidden_size: int, num_heads: int, intermediate_dim: int
    ) -> None:
        super().__init__()
        self.layers = Stack(
            "{}",
            (
                TwoWayMultiHeadAttention(hidden_size, num_heads, intermediate_dim, i == 0)
                for i in range(num_layers)
            ),
        )
        self.final_attention_token_to_image = MultiHeadAttentionWithDownsampling(
            hidden_size, num_heads, 2
        )
        self.final_layer_norm = LayerNormalization(hidden_size, 1e-5)

    def forward(
        self, image: torch.Tensor, image_positions: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image `[batch, places, dim]` and tokens `[batch, tokens, dim]` → tokens and image."""
        token_positions = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_positions, image_positions)
        seen = self.final_attention_token_to_image(
            tokens + token_positions, image + image_positions, image
        )
        return self.final_layer_norm(tokens + seen), image


class Upscaling(Layer):
    """A map → one of four times its height and width."""

    layout = Layout(Kind.SEQUENTIAL, class_name="Sequential", unnamed=("conv1", "norm", "conv2"))

    def __init__(self, dim: int, activation: ActivationLike) -> None:
        super().__init__()
        self.conv1 = Conv2DTranspose(dim, dim // 4, 2, 2)
        self.norm = LayerNormalization(dim // 4, 1e-6)
        self.conv2 = Conv2DTranspose(dim // 4, dim // 8, 2, 2)
        self.activation = Activation(activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, rows, columns, dim]` → `[batch, dim / 8, 4 · rows, 4 · columns]`."""
        x = self.norm(self.conv1(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.activation(self.conv2(self.activation(x).permute(0, 3, 1, 2)))


class SAMMaskDecoder(Component):
    """A backbone's outputs → masks and how good they are.

    `image_embeddings` `[images, rows, columns, hidden_size]`, one image or as many as the batch
    has, `prompt_dense_positional_embeddings` `[1, rows, columns, hidden_size]`,
    `prompt_sparse_embeddings` `[batch, tokens, hidden_size]` and `prompt_dense_embeddings`
    `[batch, rows, columns, hidden_size]` → `masks`
    `[batch, 1 + num_multimask_outputs, 4 · rows, 4 · columns]` and `iou_pred`
    `[batch, 1 + num_multimask_outputs]`.

    As in Keras it has weights only when they are needed: when `build` has been called, or when a
    file with some has been read into the backbone.

    Args:
        hidden_size: width of the transformer.
        num_layers: number of its blocks.
        intermediate_dim: width inside its feed-forward networks.
        num_heads: number of attention heads.
        embedding_dim: width of the embeddings; it must be `hidden_size` to compute anything.
        num_multimask_outputs: masks for ambiguous prompts, besides the one for clear ones.
        iou_head_depth: layers that estimate the quality of masks.
        iou_head_hidden_dim: width between these.
        activation: of the upscaling.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: heads that do not divide `hidden_size`.
        RuntimeError: it is called without weights.
    """

    keras_module = "keras_hub.src.models.sam.sam_mask_decoder"
    hidden_size: int
    num_layers: int
    intermediate_dim: int
    num_heads: int
    embedding_dim: int
    num_multimask_outputs: int
    iou_head_depth: int
    iou_head_hidden_dim: int
    activation: ActivationLike

    def __init__(
        self,
        *,
        hidden_size: int,
        num_layers: int,
        intermediate_dim: int,
        num_heads: int,
        embedding_dim: int = 256,
        num_multimask_outputs: int = 3,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
        activation: ActivationLike = "gelu",
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        head_dim(hidden_size, num_heads)

    @property
    def layout(self) -> Layout:
        return Layout(
            unnamed=(
                "transformer",
                "iou_token",
                "mask_tokens",
                "output_upscaling",
                "iou_prediction_head",
            )
        )

    def build(self) -> None:
        """Draw its weights at random, if it has none."""
        if hasattr(self, "transformer"):
            return
        dim, tokens = self.embedding_dim, 1 + self.num_multimask_outputs
        self.transformer = TwoWayTransformer(
            self.num_layers, self.hidden_size, self.num_heads, self.intermediate_dim
        )
        self.iou_token = Embedding(1, dim)
        self.mask_tokens = Embedding(tokens, dim)
        self.output_upscaling = Upscaling(dim, self.activation)
        self.output_hypernetworks_mlps = Parts(
            "{}", (SAMMLP(dim, dim, dim // 8, 3) for _ in range(tokens))
        )
        self.iou_prediction_head = SAMMLP(
            dim, self.iou_head_hidden_dim, tokens, self.iou_head_depth
        )
        self.train(self.training)
        self.finish()

    def forward(
        self,
        image_embeddings: MapOfAny,
        prompt_dense_positional_embeddings: Positions,
        prompt_sparse_embeddings: Tokens,
        prompt_dense_embeddings: Map,
    ) -> dict[str, torch.Tensor]:
        if not hasattr(self, "transformer"):
            raise RuntimeError("The mask decoder has no weights: load some, or call its build().")
        batch = prompt_sparse_embeddings.shape[0]
        learned = torch.cat((self.iou_token.weight, self.mask_tokens.weight))
        learned = learned.to(prompt_sparse_embeddings.dtype).expand(batch, -1, -1)
        tokens = torch.cat((learned, prompt_sparse_embeddings), dim=1)
        image = image_embeddings + prompt_dense_embeddings
        rows = image.shape[1]
        tokens, places = self.transformer(
            image.flatten(1, 2),
            prompt_dense_positional_embeddings.flatten(1, 2),
            tokens,
        )
        image = self.output_upscaling(places.unflatten(1, (rows, -1)))
        filters = torch.stack(
            [mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        masks = (filters @ image.flatten(2)).unflatten(2, image.shape[2:])
        return {"masks": masks, "iou_pred": self.iou_prediction_head(tokens[:, 0])}


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

    def forward(
        self,
        images: Images,
        points: Points | None = None,
        labels: Labels | None = None,
        boxes: Boxes | None = None,
        masks: Masks | None = None,
    ) -> dict[str, torch.Tensor]:
        return {
            "image_embeddings": self.image_encoder(images),
            **self.prompt_encoder(images, points, labels, boxes, masks),
        }
