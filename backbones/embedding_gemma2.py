"""EmbeddingGemma 2: Gemma 4 that looks both ways, with a projection of every token."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import ClassVar

import torch

from ._inputs import PaddingMask, TokenIds
from .gemma4.audio import AudioMask, AudioMel, Gemma4AudioEncoder
from .gemma4.decoder import AudioIndices, Gemma4Towers, Rotary, VisionIndices, placed
from .gemma4.text import Gemma4TextAttention, Gemma4TextDecoderBlock
from .gemma4.vision import Gemma4VisionEncoder, PixelPositions, PixelValues
from .layers.core import Dense, ReversibleEmbedding, RMSNormalization
from .layers.dtypes import DTypeLike
from .layers.gemma import scale_embeddings, times
from .layers.initializers import variance_scaling
from .layers.layout import Graph, Kind, Layout, Stack
from .layers.masks import FULL, SLIDING, check_layer_types, near_mask

# The order in which KerasHub assigns its layers.
ASSIGNED = (
    "token_embedding",
    "per_layer_model_projection",
    "per_layer_projection_norm",
    "vision_encoder",
    "audio_encoder",
    "transformer_layers",
    "final_normalization",
    "embedding_projection",
)


class EmbeddingGemma2EncoderBlock(Gemma4TextDecoderBlock):
    """The block under its Keras name."""

    layout = replace(Gemma4TextDecoderBlock.layout, class_name="EmbeddingGemma2EncoderBlock")


class EmbeddingGemma2Backbone(Gemma4Towers):
    """Encoder in which, with sliding windows, every sixth layer sees all tokens.

    With a `vision_encoder` or an `audio_encoder` the tokens of images or of sound take the places
    `vision_indices` and `audio_indices` (padded with 0), so many of each image as there are places
    for it. The mean of the outputs of real tokens, of length 1, is the embedding.

    `token_ids` and `padding_mask` `[batch, length]`; `pixel_values`
    `[batch, images, patches, pixels]`, `pixel_position_ids` `[batch, images, patches, 2]` and
    `vision_indices` `[batch, images · tokens]`; `audio_mel` `[batch, clips, frames, features]`,
    `audio_mel_mask` `[batch, clips, frames]` and `audio_indices` `[batch, clips · tokens]` →
    `[batch, length, embedding_dim]`.

    Args:
        vocabulary_size: number of token ids.
        image_size: side of the images in pixels, `None` without them. It has no effect: the
            tower takes images of any size.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        head_dim: dimensions of a head.
        use_sliding_window_attention: whether local layers have a window.
        sliding_window_size: keys that a query sees there on either side.
        sliding_window_pattern: each so many-th layer is global, the others are local.
        layer_types: `sliding_attention` or `full_attention` for each layer instead.
        global_head_dim: dimensions of a head of the global layers; `None` for `head_dim`.
        local_rope_scaling_factor: divides the positions in local layers.
        global_rope_scaling_factor: divides the positions in global ones.
        vision_encoder: the tower of images; `None` for a model that has no inputs for them.
        audio_encoder: the tower of sound; `None` for a model that has no inputs for it.
        layer_norm_epsilon: of the norms.
        dropout: rate on the attention weights, and on the output of attention and of the
            feed-forward networks.
        embedding_dim: width of the outputs.
        num_global_key_value_heads: number of heads of the keys and values of global layers; `None`
            for `num_key_value_heads`.
        hidden_size_per_layer_input: width of what the states before the first layer say to each
            layer, 0 for nothing.
        global_rope_wavelength: base of the rotary frequencies in global layers; `None` for 1e6.
        local_rope_wavelength: base of the rotary frequencies in local layers; `None` for 1e4.
        global_rope_partial_rotary_factor: share of a head's dimensions that is rotated in global
            layers; the frequencies are those of the whole head.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: no `embedding_dim`; unknown or too few `layer_types`; images or sound without
            their other inputs, or that do not fit the places for them.
    """

    tower_inputs: ClassVar = {
        "vision_encoder": ("pixel_values", "pixel_position_ids", "vision_indices"),
        "audio_encoder": ("audio_mel", "audio_mel_mask", "audio_indices"),
    }

    def __init__(
        self,
        vocabulary_size: int,
        image_size: int | None,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        head_dim: int,
        use_sliding_window_attention: bool = True,
        sliding_window_size: int = 512,
        sliding_window_pattern: int = 6,
        layer_types: list[str] | None = None,
        global_head_dim: int | None = None,
        local_rope_scaling_factor: float = 1.0,
        global_rope_scaling_factor: float = 1.0,
        vision_encoder: Gemma4VisionEncoder | None = None,
        audio_encoder: Gemma4AudioEncoder | None = None,
        layer_norm_epsilon: float = 1e-6,
        dropout: float = 0,
        embedding_dim: int | None = None,
        num_global_key_value_heads: int | None = None,
        hidden_size_per_layer_input: int = 0,
        global_rope_wavelength: float | None = None,
        local_rope_wavelength: float | None = None,
        global_rope_partial_rotary_factor: float = 1.0,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if embedding_dim is None:
            raise ValueError("embedding_dim must be given.")
        if layer_types is None:
            period = sliding_window_pattern
            layer_types = [SLIDING if (i + 1) % period else FULL for i in range(num_layers)]
            self.layer_types = layer_types
        self.is_global = [kind == FULL for kind in check_layer_types(layer_types, num_layers)]
        self.window = sliding_window_size if use_sliding_window_attention else None
        local_dim, global_dim = head_dim, global_head_dim or head_dim
        self.rotary = (
            Rotary(local_dim, local_rope_wavelength or 1e4, local_rope_scaling_factor),
            Rotary(
                global_dim,
                global_rope_wavelength or 1e6,
                global_rope_scaling_factor,
                global_rope_partial_rotary_factor,
            ),
        )
        heads = (num_key_value_heads, num_global_key_value_heads or num_key_value_heads)
        dims = (local_dim, global_dim)

        def block(kind: bool) -> EmbeddingGemma2EncoderBlock:
            attention = Gemma4TextAttention(
                hidden_dim,
                num_query_heads,
                heads[kind],
                dims[kind],
                None,
                dropout,
                layer_norm_epsilon,
            )
            return EmbeddingGemma2EncoderBlock(
                attention,
                hidden_dim,
                intermediate_dim,
                hidden_size_per_layer_input,
                dropout,
                layer_norm_epsilon,
            )

        self.token_embedding = ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=variance_scaling(1.0, "fan_in", "untruncated_normal"),
        )
        self.per_layer_dim = per_layer_dim = hidden_size_per_layer_input
        if per_layer_dim:
            self.per_layer_model_projection = Dense(
                hidden_dim, num_layers * per_layer_dim, use_bias=False
            )
            self.per_layer_projection_norm = RMSNormalization(per_layer_dim, layer_norm_epsilon)
        self.vision_encoder = vision_encoder
        if vision_encoder is not None:
            vision_encoder.own_width = True
        self.audio_encoder = audio_encoder
        self.check_towers(hidden_dim)
        self.transformer_layers = Stack("decoder_block_{}", map(block, self.is_global))
        self.final_normalization = RMSNormalization(hidden_dim, layer_norm_epsilon)
        self.embedding_projection = Dense(hidden_dim, embedding_dim, use_bias=False)

    def default_lora_layer_names(self) -> list[str]:
        names = super().default_lora_layer_names()
        text = self.vision_encoder is None and self.audio_encoder is None
        return names if text else [*names, "query_proj", "value_proj"]

    @property
    def layout(self) -> Layout:
        call, numbers = Graph(), itertools.count()

        def op(*inputs: tuple[str, int]) -> tuple[str, int]:
            return call(f"op_{next(numbers)}", *inputs)

        padding = call("padding_mask")
        x = call("token_embedding", call("token_ids"))
        if self.vision_encoder is not None:
            pixels = call("pixel_position_ids"), call("pixel_values")
            x = op(op(call(self.vision_encoder.name, *pixels)), x, call("vision_indices"))
        if self.audio_encoder is not None:
            mel = call("audio_mel"), op(call("audio_mel_mask"))
            x = op(op(call(self.audio_encoder.name, *mel)), x, call("audio_indices"))
        x = op(x)
        if self.per_layer_dim:
            projected = op(call("per_layer_model_projection", x))
        mask = op(x, padding)
        said: tuple[tuple[str, int], ...] = ()
        for name in self.transformer_layers.names():
            if self.per_layer_dim:
                said = (call("per_layer_projection_norm", op(projected)),)
            x = call(name, x, mask, padding, *said)
        x = call("embedding_projection", call("final_normalization", x))
        return Layout(Kind.GRAPH, order=call.order(x), assigned=ASSIGNED)

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        pixel_values: PixelValues | None = None,
        pixel_position_ids: PixelPositions | None = None,
        vision_indices: VisionIndices | None = None,
        audio_mel: AudioMel | None = None,
        audio_mel_mask: AudioMask | None = None,
        audio_indices: AudioIndices | None = None,
    ) -> torch.Tensor:
        images = self.given_images(token_ids, pixel_values, pixel_position_ids, vision_indices)
        clips = self.given_clips(token_ids, audio_mel, audio_mel_mask, audio_indices)
        x = self.token_embedding(token_ids)
        if images is not None and self.vision_encoder is not None:
            x = placed(x, self.vision_encoder(images[0], images[1]), images[2])
        if clips is not None and self.audio_encoder is not None:
            x = placed(x, self.audio_encoder(clips[0], clips[1]), clips[2])
        x = scale_embeddings(x)

        said = self._said_to_layers(x)
        masks = self._masks(x, padding_mask)
        positions = torch.arange(x.shape[1], device=x.device)[None]
        tables = [rotary.tables(positions, x.dtype) for rotary in self.rotary]
        for i, (layer, kind) in enumerate(zip(self.transformer_layers, self.is_global)):
            x, _ = layer(x, masks[kind], tables[kind], None, None, said[i])
        return self.embedding_projection(self.final_normalization(x))

    def _said_to_layers(self, x: torch.Tensor) -> list[torch.Tensor | None]:
        """What the states say to each layer, `[batch, length, per_layer_dim]`."""
        if not self.per_layer_dim:
            return [None] * len(self.is_global)
        said = times(self.per_layer_model_projection(x), x.shape[-1] ** -0.5)
        said = self.per_layer_projection_norm(said.unflatten(-1, (-1, self.per_layer_dim)))
        return list(said.unbind(2))

    def _masks(
        self, x: torch.Tensor, padding_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Of local layers and of global ones; padding neither sees nor is seen."""
        near = None if self.window is None else near_mask(x.shape[1], self.window, x.device)
        if padding_mask is None:
            return near, None
        real = padding_mask.bool()
        mask = (real[:, None, :] & real[:, :, None])[:, None]
        return mask if near is None else mask & near, mask
