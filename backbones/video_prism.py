"""VideoPrism (arXiv:2402.13217)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ._backbone import Backbone
from ._inputs import Input, PaddingMask, TokenIds
from .layers.activations import Activation
from .layers.attention import attend, attend_biased_soft_capped, merge_heads, split_heads
from .layers.convolution import check_data_format
from .layers.core import Dense, Dropout, EinsumDense, Embedding, LayerNormalization
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal
from .layers.layer import Layer
from .layers.layout import GRAPH, Graph, Layout, Stack
from .layers.masks import CAUSAL, Mask, causal_mask, decoder_mask, hiding_bias
from .layers.transformer import head_dim
from .layers.vision import EmbeddedPositionGrid, check_images, image_channels, image_size

Videos = Annotated[
    torch.Tensor, Input("images", ("batch", "frames", "height", "width", "channels"))
]
VISION = (
    "spatial_patching_and_embedding",
    "spatial_encoder",
    "temporal_embedding",
    "temporal_encoder",
)
# The order in which KerasHub assigns its layers.
ASSIGNED = (
    *VISION,
    "auxiliary_encoder",
    "video_pooler",
    "text_embedding",
    "text_encoder",
    "text_layer_normalization",
)


class VideoPrismPerDimScale(Layer):
    """A learned positive factor for each dimension of queries, 1 / √dim at first."""

    compute_dtype: torch.dtype | None = None

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.per_dim_scale = nn.Parameter(torch.zeros(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.tensor(1.442695041 / math.sqrt(x.shape[-1]), dtype=x.dtype, device=x.device)
        return x * (first * F.softplus(self.per_dim_scale.to(x.dtype)))


class VideoPrismAttention(Layer):
    layout = Layout(
        attributes={
            "query": "query_dense",
            "key": "key_dense",
            "value": "value_dense",
            "output": "output_dense",
        }
    )

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        key_dim: int,
        dropout: float,
        soft_cap: float | None = None,
    ) -> None:
        super().__init__()
        heads = (num_heads, key_dim)
        self.num_heads = num_heads
        self.scale = key_dim**-0.5
        self.soft_cap = soft_cap
        self.dropout = dropout
        self.query = EinsumDense("btd,dnh->btnh", hidden_dim, heads, use_bias=True)
        self.key = EinsumDense("btd,dnh->btnh", hidden_dim, heads, use_bias=True)
        self.value = EinsumDense("btd,dnh->btnh", hidden_dim, heads, use_bias=True)
        self.output = EinsumDense("btnh,nhd->btd", heads, hidden_dim, use_bias=True)

    def forward(self, x: torch.Tensor, mask: Mask = None) -> torch.Tensor:
        query = split_heads(self.query(x), self.num_heads)
        key = split_heads(self.key(x), self.num_heads)
        value = split_heads(self.value(x), self.num_heads)
        dropout = self.dropout if self.training else 0.0
        if self.soft_cap is None:
            x = attend(query, key, value, mask, self.scale, dropout)
        else:
            if mask is CAUSAL:
                mask = causal_mask(x.shape[1], x.device)
            bias = x.new_zeros(()) if mask is None else hiding_bias(mask)
            x = attend_biased_soft_capped(
                query, key, value, bias, self.scale, self.soft_cap, dropout
            )
        return self.output(merge_heads(x))


class VideoPrismPoolingAttention(VideoPrismAttention):
    """Attention of other queries, whose dimensions have learned scales."""

    layout = replace(
        VideoPrismAttention.layout,
        class_name="VideoPrismAttention",
        attributes={
            **VideoPrismAttention.layout.attributes,
            "per_dim_scale": "per_dim_scale_layer",
        },
    )

    def __init__(self, hidden_dim: int, num_heads: int, key_dim: int, dropout: float) -> None:
        super().__init__(hidden_dim, num_heads, key_dim, dropout)
        self.per_dim_scale = VideoPrismPerDimScale(key_dim)

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        query = self.per_dim_scale(split_heads(self.query(x), self.num_heads))
        key = split_heads(self.key(seen), self.num_heads)
        value = split_heads(self.value(seen), self.num_heads)
        dropout = self.dropout if self.training else 0.0
        return self.output(merge_heads(attend(query, key, value, scale=1.0, dropout=dropout)))


class VideoPrismMLP(Layer):
    def __init__(
        self, hidden_dim: int, intermediate_dim: int, dropout: float, activation: str
    ) -> None:
        super().__init__()
        bias = random_normal(1e-6)
        self.dense_1 = Dense(hidden_dim, intermediate_dim, bias_initializer=bias)
        self.activation = Activation(activation)
        self.dense_2 = Dense(intermediate_dim, hidden_dim, bias_initializer=bias)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.activation(self.dense_1(x)))
        return self.dropout(self.dense_2(x))


class VideoPrismEncoderBlock(Layer):
    layout = Layout(attributes={"ln_1": "layer_norm_1", "ln_2": "layer_norm_2"})

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        dropout: float,
        attention_dropout: float,
        soft_cap: float | None,
        epsilon: float,
        activation: str,
    ) -> None:
        super().__init__()
        key_dim = head_dim(hidden_dim, num_heads)
        self.ln_1 = LayerNormalization(hidden_dim, epsilon)
        self.mha = VideoPrismAttention(hidden_dim, num_heads, key_dim, attention_dropout, soft_cap)
        self.dropout = Dropout(dropout)
        self.ln_2 = LayerNormalization(hidden_dim, epsilon)
        self.mlp = VideoPrismMLP(hidden_dim, intermediate_dim, dropout, activation)

    def forward(self, x: torch.Tensor, mask: Mask = None) -> torch.Tensor:
        x = x + self.dropout(self.mha(self.ln_1(x), mask))
        return x + self.mlp(self.ln_2(x))


class VideoPrismEncoder(Layer):
    layout = Layout(attributes={"ln": "layer_norm"})

    def __init__(
        self,
        num_layers: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        dropout: float,
        attention_dropout: float,
        soft_cap: float | None,
        epsilon: float,
        activation: str = "gelu",
        rows: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.encoder_layers = Stack(
            "transformer_block_{}",
            (
                VideoPrismEncoderBlock(
                    hidden_dim,
                    intermediate_dim,
                    num_heads,
                    dropout,
                    attention_dropout,
                    soft_cap,
                    epsilon,
                    activation,
                )
                for _ in range(num_layers)
            ),
            rows=rows,
        )
        self.dropout = Dropout(dropout)
        self.ln = LayerNormalization(hidden_dim, epsilon)

    def forward(self, x: torch.Tensor, mask: Mask = None) -> torch.Tensor:
        """`[batch, length, hidden_dim]`, the same."""
        x = self.dropout(x)
        for block in self.encoder_layers:
            x = block(x, mask)
        return self.ln(x)


class VideoPrismPatchingAndEmbedding(EmbeddedPositionGrid):
    """Frames → patches, each with its position's vector."""

    def __init__(
        self, image_size: tuple[int, int], patch_size: int, hidden_dim: int, num_channels: int
    ) -> None:
        super().__init__(image_size, (patch_size, patch_size))
        self.patch_size = patch_size
        self.patch_embedding = Dense(patch_size * patch_size * num_channels, hidden_dim)
        self.position_embedding = Embedding(self.num_patches, hidden_dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`[batch, height, width, channels]` → `[batch, patches, hidden_dim]`, row by row."""
        x = images.unflatten(2, (-1, self.patch_size)).unflatten(1, (-1, self.patch_size))
        x = self.patch_embedding(x.transpose(2, 3).flatten(3).flatten(1, 2))
        return self.add_positions(x)


class VideoPrismTemporalEmbedding(Layer):
    """Patches of each frame → each patch in all frames, with the frames' vectors."""

    layout = Layout(attributes={"temporal_position_embedding": "embedding"})

    def __init__(self, num_frames: int, hidden_dim: int) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.temporal_position_embedding = Embedding(num_frames, hidden_dim, random_normal(0.02))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch · frames, patches, hidden_dim]` → `[batch · patches, frames, hidden_dim]`."""
        x = x.unflatten(0, (-1, self.num_frames)).transpose(1, 2).flatten(0, 1)
        frames = torch.arange(self.num_frames, device=x.device)
        return x + self.temporal_position_embedding(frames)


class VideoPrismAttenTokenPoolingLayer(Layer):
    """All positions → one vector, which a learned query asks for."""

    compute_dtype: torch.dtype | None = None
    layout = Layout(attributes={"pooling_attention_layer_norm": "layer_norm"})

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float, epsilon: float) -> None:
        super().__init__()
        self.pooling_attention_query = nn.Parameter(torch.empty(1, hidden_dim))
        random_normal(0.02)(self.pooling_attention_query, 1, hidden_dim)
        key_dim = head_dim(4 * hidden_dim, num_heads)
        self.pooling_attention = VideoPrismPoolingAttention(hidden_dim, num_heads, key_dim, dropout)
        self.pooling_attention_layer_norm = LayerNormalization(hidden_dim, epsilon)
        self.attention_dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, length, hidden_dim]` → `[batch, hidden_dim]`."""
        query = self.pooling_attention_query.to(x.dtype).expand(x.shape[0], 1, -1)
        y = self.pooling_attention_layer_norm(self.pooling_attention(query, x))
        return self.attention_dropout(y).squeeze(1)


class VideoPrismClassToken(Layer):
    """A learned token, multiplied as those of the text are."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, hidden_dim))
        random_normal(hidden_dim**-0.5)(self.cls_token, 1, hidden_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` `[batch, length, hidden_dim]` with the token behind it."""
        token = multiplied(self.cls_token.to(x.dtype))
        return torch.cat((x, token.expand(x.shape[0], -1, -1)), dim=1)


class VideoPrismEmbedding(Layer):
    """Tokens with the sinusoids of their positions, and the class token behind them."""

    def __init__(self, vocabulary_size: int, hidden_dim: int) -> None:
        super().__init__()
        self.token_embedding = Embedding(vocabulary_size, hidden_dim)
        self.class_token = VideoPrismClassToken(hidden_dim)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`[batch, length]` → `[batch, length + 1, hidden_dim]`."""
        x = multiplied(self.token_embedding(token_ids))
        return self.class_token(x + sinusoids(x.shape[1], x.shape[2], x.device).to(x.dtype))


def multiplied(x: torch.Tensor) -> torch.Tensor:
    """By the square root of the width, rounded as `x` is."""
    return x * torch.tensor(x.shape[-1], dtype=x.dtype, device=x.device).sqrt()


def sinusoids(length: int, dim: int, device: torch.device) -> torch.Tensor:
    """Sines, then cosines, of wavelengths from 2π to 20000π: `[length, dim]`."""
    half = dim // 2
    steps = torch.arange(half, device=device) * (-math.log(10000) / max(half - 1, 1))
    angles = torch.arange(length, device=device)[:, None] * steps.exp()
    return F.pad(torch.cat((angles.sin(), angles.cos()), dim=-1), (0, dim % 2))


class VideoPrismBackbone(Backbone):
    """Encoder of videos, first within each frame and then of each patch through all frames; with
    layers for text a pair of encoders whose embeddings can be compared.

    `pixel_values` `[batch, num_frames, height, width, channels]` → `[batch, num_frames, patches,
    hidden_dim]`. With text, `pixel_values`, `token_ids`, `padding_mask` `[batch, length]` →
    `vision_embeddings` and `text_embeddings` `[batch, hidden_dim]`, not normalized to length one.

    Args:
        num_frames: of a video.
        patch_size: side of a patch in pixels.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        num_heads: number of attention heads. Each has `hidden_dim // num_heads` dimensions.
        num_spatial_layers: blocks within each frame.
        num_temporal_layers: blocks through all frames.
        num_auxiliary_layers: blocks over all patches of all frames, with text only.
        vocabulary_size: number of token ids, with text only.
        num_text_layers: blocks of the text encoder; 0 for a model of videos alone.
        dropout_rate: of hidden states, in training mode.
        attention_dropout_rate: of attention probabilities, in training mode.
        attention_logit_soft_cap: squeezes attention scores into ± this, but not the pooling's.
        layer_norm_epsilon: of all norms.
        image_shape: height, width and channels of a frame, in the order of `data_format`.
        data_format: `channels_last` or `channels_first`, of frames; `None` for the first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an `image_shape` without height and width, or one that patches do not fill;
            videos of another shape; text missing.
    """

    unsaved: ClassVar = {"data_format": (None, "channels_last")}
    tower_inputs: ClassVar = {"num_text_layers": ("token_ids", "padding_mask")}
    resampled: ClassVar = ("image_shape",)

    def __init__(
        self,
        num_frames: int,
        patch_size: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        num_spatial_layers: int,
        num_temporal_layers: int,
        num_auxiliary_layers: int,
        vocabulary_size: int = 0,
        num_text_layers: int = 0,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        attention_logit_soft_cap: float | None = None,
        layer_norm_epsilon: float = 1e-6,
        image_shape: Sequence[int] = (288, 288, 3),
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.data_format = check_data_format(data_format)
        self.num_channels = image_channels(image_shape, self.data_format)
        size = image_size(image_shape, self.data_format, (patch_size, patch_size))
        block = (
            hidden_dim,
            intermediate_dim,
            num_heads,
            dropout_rate,
            attention_dropout_rate,
            attention_logit_soft_cap,
            layer_norm_epsilon,
        )
        self.spatial_patching_and_embedding = VideoPrismPatchingAndEmbedding(
            size, patch_size, hidden_dim, self.num_channels
        )
        self.spatial_encoder = VideoPrismEncoder(
            num_spatial_layers, *block, rows=("batch", "frames")
        )
        self.temporal_embedding = VideoPrismTemporalEmbedding(num_frames, hidden_dim)
        self.temporal_encoder = VideoPrismEncoder(
            num_temporal_layers, *block, rows=("batch", "patches")
        )
        if num_text_layers:
            if num_auxiliary_layers:
                self.auxiliary_encoder = VideoPrismEncoder(
                    num_auxiliary_layers, *block, rows=("batch",)
                )
                self.auxiliary_encoder.ln = nn.Identity()  # type: ignore[assignment]
            self.video_pooler = VideoPrismAttenTokenPoolingLayer(
                hidden_dim, num_heads, dropout_rate, layer_norm_epsilon
            )
            self.text_embedding = VideoPrismEmbedding(vocabulary_size, hidden_dim)
            self.text_encoder = VideoPrismEncoder(num_text_layers, *block, "relu")
            self.text_layer_normalization = LayerNormalization(hidden_dim, layer_norm_epsilon)

    @property
    def token_embedding(self) -> nn.Module | None:
        return self.text_embedding.token_embedding if self.num_text_layers else None

    @property
    def layout(self) -> Layout:
        graph = Graph()
        x = graph("spatial_reshape", graph("pixel_values"))
        for layer in VISION:
            x = graph(layer, x)
        vision = graph("factorized_decoding", x)
        if not self.num_text_layers:
            return replace(GRAPH, order=graph.order(vision), assigned=VISION)
        x = graph("video_reshape", vision)
        if self.num_auxiliary_layers:
            x = graph("auxiliary_encoder", x)
        vision = graph("squeeze", graph("video_pooler", x))
        x = graph("text_embedding", graph("token_ids"), graph("padding_mask"))
        x = graph("text_layer_normalization", graph("text_encoder", x, x))
        text = graph("get_item", x)
        return replace(GRAPH, order=graph.order(text, vision), assigned=ASSIGNED)

    def forward(
        self,
        pixel_values: Videos,
        token_ids: TokenIds | None = None,
        padding_mask: PaddingMask | None = None,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        if not self.num_text_layers:
            return self.get_vision_embeddings(pixel_values)
        if token_ids is None:
            raise ValueError(
                f"A {self.class_name} with text takes the inputs {', '.join(self.input_specs)}; "
                "missing: token_ids. For videos alone there is get_vision_embeddings."
            )
        return {
            "vision_embeddings": self.get_vision_embeddings(pixel_values),
            "text_embeddings": self.get_text_embeddings(token_ids, padding_mask),
        }

    def get_vision_embeddings(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the model makes of videos, without text."""
        batch, frames = pixel_values.shape[:2]
        if frames != self.num_frames:
            raise ValueError(
                f"pixel_values must have num_frames={self.num_frames} frames, not {frames}."
            )
        embed = self.spatial_patching_and_embedding
        check_images(pixel_values, self.data_format, self.num_channels, embed.image_size)
        images = pixel_values.flatten(0, 1)
        if self.data_format == "channels_first":
            images = images.permute(0, 2, 3, 1)
        x = self.spatial_encoder(embed(images))  # [batch · frames, patches, hidden_dim]
        x = self.temporal_encoder(self.temporal_embedding(x))
        x = x.unflatten(0, (batch, embed.num_patches)).transpose(
            1, 2
        )  # [batch, frames, patches, hidden_dim]
        if not self.num_text_layers:
            return x
        x = x.flatten(1, 2)
        if self.num_auxiliary_layers:
            x = self.auxiliary_encoder(x)
        return self.video_pooler(x)

    def get_text_embeddings(
        self, token_ids: torch.Tensor, padding_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the model makes of text, without videos: the class token's vector."""
        x = self.text_embedding(token_ids)
        if padding_mask is not None:
            padding_mask = F.pad(padding_mask.bool(), (0, 1), value=True)
        x = self.text_encoder(x, decoder_mask(padding_mask, x.shape[1], x.device))
        return self.text_layer_normalization(x[:, -1])
