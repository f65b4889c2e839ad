"""Qwen3.5: three of four layers are Gated DeltaNets, the fourth is gated attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from .._backbone import Backbone
from .._inputs import CacheIndex, CacheState, Input, PaddingMask, TokenIds
from ..layers.attention import PRIVATE_ATTENTION, attend, merge_heads, split_heads
from ..layers.cache import KeyValueShape, Past, Step
from ..layers.core import Dense, Dropout, EinsumDense, ReversibleEmbedding, UnitRMSNormalization
from ..layers.dtypes import DTypeLike
from ..layers.initializers import random_normal
from ..layers.layer import Layer
from ..layers.layout import Kind, Layout, Stack
from ..layers.masks import FULL, Mask, check_layer_types
from ..layers.multimodal import check_range, check_width, interleave
from ..layers.rotary import (
    Tables,
    rotary_frequencies,
    rotary_part,
    rotary_tables,
    rotate_part,
    sectioned_tables,
)
from .delta_net import Qwen3_5GatedDeltaNet
from .vision import ImageGrid, PixelValues, Qwen3_5VisionEncoder

VisionIndices = Annotated[torch.Tensor, Input("ids", ("images_batch", "vision_tokens"))]
# `[batch, 3, length]`; no input of the Keras model.
SpacePositions = Annotated[torch.Tensor, Input("state", ())]
INIT = random_normal(0.02)
LINEAR = "linear_attention"


class Qwen3_5LayerNorm(UnitRMSNormalization):
    """The RMS norm under its Keras name."""

    layout = Layout()


class Qwen3_5Attention(Layer):
    """Grouped-query attention with normed queries and keys, partly rotary positions and a gate."""

    layout = replace(
        PRIVATE_ATTENTION,
        attributes={
            **PRIVATE_ATTENTION.attributes,
            "query_norm": "_query_norm",
            "key_norm": "_key_norm",
        },
    )

    def __init__(
        self,
        hidden_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        epsilon: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
        key_value = (num_key_value_heads, head_dim)
        # Each head's query and its gate lie side by side.
        self.query = EinsumDense(
            "bqm,muh->bquh", hidden_dim, (num_query_heads, 2 * head_dim), kernel_initializer=INIT
        )
        self.query_norm = Qwen3_5LayerNorm(head_dim, epsilon)
        self.key = EinsumDense("bkm,mvh->bkvh", hidden_dim, key_value, kernel_initializer=INIT)
        self.key_norm = Qwen3_5LayerNorm(head_dim, epsilon)
        self.value = EinsumDense("bkm,mvh->bkvh", hidden_dim, key_value, kernel_initializer=INIT)
        self.dropout_layer = Dropout(dropout)
        self.attention_output = EinsumDense(
            "bquh,uhm->bqm", (num_query_heads, head_dim), hidden_dim, kernel_initializer=INIT
        )

    def forward(
        self, x: torch.Tensor, mask: Mask, tables: Tables, past: Past | None
    ) -> torch.Tensor:
        q, gate = split_heads(self.query(x), self.num_query_heads).chunk(2, dim=-1)
        k = split_heads(self.key(x), self.num_key_value_heads)
        v = split_heads(self.value(x), self.num_key_value_heads)
        q = rotate_part(self.query_norm(q), tables)
        k = rotate_part(self.key_norm(k), tables)
        if past is not None:
            k, v = past.extend(k, v)
        x = self.dropout_layer(attend(q, k, v, mask))
        return self.attention_output(merge_heads(x * gate.sigmoid()))


Mixer = Qwen3_5Attention | Qwen3_5GatedDeltaNet


class DecoderBlock(Layer):
    """Attention or a Gated DeltaNet and a feed-forward network, each behind a norm; subclasses add
    the second half.
    """

    post_attention_layernorm: nn.Module
    feed_forward: Callable[[torch.Tensor], torch.Tensor]

    layout = Layout(
        attributes={
            "linear_attn": "_linear_attn",
            "self_attention": "_self_attention_layer",
            "input_layernorm": "_input_layernorm",
            "feedforward_gate_dense": "_feedforward_gate_dense",
            "feedforward_intermediate_dense": "_feedforward_intermediate_dense",
            "feedforward_output_dense": "_feedforward_output_dense",
            "sparse_moe_block": "mlp",
            "post_attention_layernorm": "_post_attention_layernorm",
        },
        built_on_call=True,
    )

    def __init__(self, mixer: Mixer, hidden_dim: int, epsilon: float, dropout: float) -> None:
        super().__init__()
        self.linear_attn = mixer if isinstance(mixer, Qwen3_5GatedDeltaNet) else None
        self.self_attention = mixer if isinstance(mixer, Qwen3_5Attention) else None
        self.input_layernorm = Qwen3_5LayerNorm(hidden_dim, epsilon)
        self.self_attention_dropout = Dropout(dropout)

    def forward(
        self, x: torch.Tensor, mask: Mask, tables: Tables, step: Step, index: int
    ) -> torch.Tensor:
        residual = x
        x = self.input_layernorm(x)
        if self.linear_attn is not None:
            x = self.linear_attn(x, step, None if step.cache is None else step.cache.layers[index])
        elif self.self_attention is not None:
            x = self.self_attention(x, mask, tables, step.past(index))
        x = residual = self.self_attention_dropout(x) + residual
        return self.feed_forward(self.post_attention_layernorm(x)) + residual


class Qwen3_5TransformerDecoder(DecoderBlock):
    def __init__(
        self,
        mixer: Mixer,
        hidden_dim: int,
        intermediate_dim: int,
        epsilon: float,
        dropout: float,
    ) -> None:
        super().__init__(mixer, hidden_dim, epsilon, dropout)

        def project(inputs: int, outputs: int) -> Dense:
            return Dense(inputs, outputs, use_bias=False, kernel_initializer=INIT)

        self.feedforward_gate_dense = project(hidden_dim, intermediate_dim)
        self.feedforward_intermediate_dense = project(hidden_dim, intermediate_dim)
        self.feedforward_output_dense = project(intermediate_dim, hidden_dim)
        self.post_attention_layernorm = Qwen3_5LayerNorm(hidden_dim, epsilon)

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        # The kernels of silu compute in float32 whatever the dtype.
        gate = F.silu(self.feedforward_gate_dense(x))
        return self.feedforward_output_dense(self.feedforward_intermediate_dense(x) * gate)


class HybridDecoder(Backbone):
    """What the models with and without experts share.

    Args:
        block: attention or a Gated DeltaNet → a decoder block with it.
    """

    layer_types: list[str] | None
    tower_inputs: ClassVar = {
        "vision_encoder": (
            *("pixel_values", "image_grid_thw", "vision_indices"),
            "space_positions",
        )
    }
    mrope_section: Sequence[int] | None

    def __init__(
        self,
        block: Callable[[Mixer], DecoderBlock],
        *,
        vocabulary_size: int,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        hidden_dim: int,
        layer_types: list[str] | None,
        partial_rotary_factor: float,
        rope_max_wavelength: float,
        rope_scaling_factor: float,
        layer_norm_epsilon: float,
        dropout: float,
        tie_word_embeddings: bool,
        sliding_window_size: int | None,
        linear_num_key_heads: int,
        linear_num_value_heads: int,
        linear_key_head_dim: int,
        linear_value_head_dim: int,
        linear_conv_kernel_dim: int,
        vision_encoder: Qwen3_5VisionEncoder | None,
        dtype: DTypeLike,
        trainable: bool,
        name: str | None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        kinds = kinds_of_layers(num_layers, layer_types)
        if layer_types is None:
            self.layer_types = kinds
        turned = FULL in kinds  # linear ones have no positions
        self.rotary_dim = rotary_part(head_dim, partial_rotary_factor) if turned else 0
        self.rope_max_wavelength = rope_max_wavelength
        self.rope_scaling_factor = rope_scaling_factor
        self.window = sliding_window_size

        def mixer(kind: str) -> Mixer:
            if kind == FULL:
                return Qwen3_5Attention(
                    hidden_dim,
                    num_query_heads,
                    num_key_value_heads,
                    head_dim,
                    layer_norm_epsilon,
                    dropout,
                )
            return Qwen3_5GatedDeltaNet(
                hidden_dim,
                linear_num_key_heads,
                linear_num_value_heads,
                linear_key_head_dim,
                linear_value_head_dim,
                linear_conv_kernel_dim,
                layer_norm_epsilon,
                INIT,
            )

        mixers = [mixer(kind) for kind in kinds]
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, tie_word_embeddings, random_normal(0.01)
        )
        self.vision_encoder = vision_encoder
        if vision_encoder is not None:
            width = vision_encoder.out_hidden_size
            check_width("vision_encoder", "out_hidden_size", width, hidden_dim)
        self.transformer_layers = Stack("transformer_layer_{}", map(block, mixers))
        self.sequence_output_layernorm = Qwen3_5LayerNorm(hidden_dim, layer_norm_epsilon)
        keys = KeyValueShape(num_key_value_heads, head_dim, sliding_window_size)
        self.cache_shapes = [
            one.state_shape() if isinstance(one, Qwen3_5GatedDeltaNet) else keys for one in mixers
        ]

    @property
    def layout(self) -> Layout:
        tower = () if self.vision_encoder is None else (self.vision_encoder.name,)
        return Layout(
            Kind.GRAPH,
            order=(*tower, "token_embedding", *self.transformer_layers.names()),
            assigned=(
                "token_embedding",
                "transformer_layers",
                "sequence_output_layernorm",
                "vision_encoder",
            ),
        )

    def tensors(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs as checked tensors; those of images may lack the first axis, as KerasHub's
        preprocessor gives them.
        """
        names = ("pixel_values", "image_grid_thw", "vision_indices")
        if [getattr(given.get(name), "ndim", 0) for name in names[:2]] == [5, 2]:
            batched = {name: given[name][None] for name in names if given.get(name) is not None}
            given = {**given, **batched}
        return super().tensors(given)

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        pixel_values: PixelValues | None = None,
        image_grid_thw: ImageGrid | None = None,
        vision_indices: VisionIndices | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
        space_positions: SpacePositions | None = None,
    ) -> torch.Tensor:
        tokens = None
        if self.vision_encoder is not None and pixel_values is not None and pixel_values.numel():
            if image_grid_thw is None or vision_indices is None:
                raise ValueError("pixel_values need image_grid_thw and vision_indices.")
            count = pixel_values.shape[0] * pixel_values.shape[1] // self.vision_encoder.merge**2
            if not torch.compiler.is_compiling() and vision_indices.numel() != count:
                raise ValueError(
                    f"vision_indices has {vision_indices.numel()} places, but pixel_values give "
                    f"{count} tokens."
                )
            check_range("vision_indices", vision_indices, token_ids.numel())
            tokens = self.vision_encoder(pixel_values, image_grid_thw)
        x = self.token_embedding(token_ids)
        if tokens is not None and vision_indices is not None:
            # The indices are those of the batch's rows one after the other.
            rows = x.flatten(0, 1)[None]
            x = interleave(rows, tokens[None], vision_indices.reshape(1, -1)).view_as(x)
        step = Step(x, padding_mask, cache, cache_update_index)
        frequencies = rotary_frequencies(
            self.rotary_dim, self.rope_max_wavelength, x.device, self.rope_scaling_factor
        )
        if space_positions is None or self.mrope_section is None:
            tables = rotary_tables(step.positions, frequencies, x.dtype)
        else:
            tables = sectioned_tables(space_positions, frequencies, self.mrope_section, x.dtype)
        mask = step.mask(self.window)
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, mask, tables, step, i)
        return self.sequence_output_layernorm(x)


class Qwen3_5Backbone(HybridDecoder):
    """Decoder of Gated DeltaNets, with attention in every fourth block.

    With a `vision_encoder` the tokens of its `pixel_values` and `image_grid_thw` take the places
    `vision_indices` in the rows of the text laid one after the other.

    `token_ids` and `padding_mask` `[batch, length]`, `pixel_values`
    `[images_batch, patches, temporal_patch_size, patch_size, patch_size, in_channels]`,
    `image_grid_thw` `[images_batch, images, 3]` and `vision_indices` `[images_batch, tokens]` →
    `[batch, length, hidden_dim]`. With `space_positions` `[batch, 3, length]`, in time, rows and
    columns, attention knows where patches are; without them, as in KerasHub, they have the
    positions of text.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        head_dim: dimensions of a head of attention.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        layer_types: `linear_attention` or `full_attention` for each block; `None` for
            `full_attention` in every fourth.
        partial_rotary_factor: share of a head's dimensions that is rotated.
        rope_max_wavelength: base of the rotary frequencies.
        rope_scaling_factor: divides the positions.
        layer_norm_epsilon: of the norms.
        dropout: rate on the output of attention or the DeltaNet; of attention before its
            projection, too.
        tie_word_embeddings: whether `token_embedding(x, reverse=True)` uses the embedding's own
            matrix, not a second one.
        sliding_window_size: keys that a query of `full_attention` sees, itself included; `None` for
            all before it. KerasHub's torch backend drops the window, its other backends apply it.
        linear_num_key_heads: heads of the queries and keys of a DeltaNet.
        linear_num_value_heads: heads of its values, a multiple of that.
        linear_key_head_dim: dimensions of a head of its queries and keys.
        linear_value_head_dim: dimensions of a head of its values.
        linear_conv_kernel_dim: taps of its causal convolution.
        vision_encoder: the tower of images; `None` for a model of text, which has no inputs for
            them.
        mrope_section: how many pairs of dimensions each axis of `space_positions` turns.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: unknown or too few `layer_types`; images that do not fit their grid or indices.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        hidden_dim: int,
        intermediate_dim: int,
        layer_types: list[str] | None = None,
        partial_rotary_factor: float = 0.25,
        rope_max_wavelength: float = 10000,
        rope_scaling_factor: float = 1.0,
        layer_norm_epsilon: float = 1e-6,
        dropout: float = 0.0,
        tie_word_embeddings: bool = False,
        sliding_window_size: int | None = 32768,
        linear_num_key_heads: int = 16,
        linear_num_value_heads: int = 32,
        linear_key_head_dim: int = 128,
        linear_value_head_dim: int = 128,
        linear_conv_kernel_dim: int = 4,
        vision_encoder: Qwen3_5VisionEncoder | None = None,
        mrope_section: list[int] | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        def block(mixer: Mixer) -> Qwen3_5TransformerDecoder:
            return Qwen3_5TransformerDecoder(
                mixer, hidden_dim, intermediate_dim, layer_norm_epsilon, dropout
            )

        super().__init__(
            block,
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_query_heads=num_query_heads,
            num_key_value_heads=num_key_value_heads,
            head_dim=head_dim,
            hidden_dim=hidden_dim,
            layer_types=layer_types,
            partial_rotary_factor=partial_rotary_factor,
            rope_max_wavelength=rope_max_wavelength,
            rope_scaling_factor=rope_scaling_factor,
            layer_norm_epsilon=layer_norm_epsilon,
            dropout=dropout,
            tie_word_embeddings=tie_word_embeddings,
            sliding_window_size=sliding_window_size,
            linear_num_key_heads=linear_num_key_heads,
            linear_num_value_heads=linear_num_value_heads,
            linear_key_head_dim=linear_key_head_dim,
            linear_value_head_dim=linear_value_head_dim,
            linear_conv_kernel_dim=linear_conv_kernel_dim,
            vision_encoder=vision_encoder,
            dtype=dtype,
            trainable=trainable,
            name=name,
        )


def kinds_of_layers(num_layers: int, layer_types: list[str] | None) -> list[str]:
    """`linear_attention` or `full_attention` for each layer."""
    if layer_types is None:
        return [FULL if (i + 1) % 4 == 0 else LINEAR for i in range(num_layers)]
    return check_layer_types(layer_types, num_layers, (LINEAR, FULL))
