"""Segment Anything's decoder: masks, and how good they are."""

from __future__ import annotations

from typing import Annotated

import torch
from torch.nn import functional as F

from .._inputs import Input
from .._model import Component
from ..layers.activations import ActivationLike, MapActivation
from ..layers.attention import attend, merge_heads, split_heads
from ..layers.convolution import Conv2DTranspose
from ..layers.core import Dense, Embedding, LayerNormalization
from ..layers.dtypes import DTypeLike
from ..layers.layer import Layer
from ..layers.layout import Kind, Layout, Parts, Sequential, Stack, flattened
from ..layers.transformer import head_dim

Map = Annotated[torch.Tensor, Input("values", ("batch", "rows", "columns", "dim"))]
MapOfAny = Annotated[torch.Tensor, Input("values", ("images", "rows", "columns", "dim"))]
Positions = Annotated[torch.Tensor, Input("values", ("one", "rows", "columns", "dim"))]
Tokens = Annotated[torch.Tensor, Input("values", ("batch", "tokens", "dim"))]


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


class DenseLayers(Layer):
    """Two or more linear maps with ReLUs between them."""

    layout = Layout(
        Kind.SEQUENTIAL,
        class_name="Sequential",
        unnamed=("proj_in", "proj_out"),
        inside={"layers": flattened},
    )

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        self.proj_in = Dense(in_dim, hidden_dim)
        self.layers = Sequential(*(Dense(hidden_dim, hidden_dim) for _ in range(num_layers - 2)))
        self.proj_out = Dense(hidden_dim, out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.proj_in(x))
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.proj_out(x)


class SAMMLP(Layer):
    layout = Layout(class_name="MLP", unnamed=("mlp_block",))

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        self.mlp_block = (
            DenseLayers(in_dim, hidden_dim, out_dim, num_layers)
            if num_layers > 1
            else Sequential(Dense(in_dim, out_dim))
        )

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
        self.activation = MapActivation(activation)

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
