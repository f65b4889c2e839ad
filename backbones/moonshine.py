"""Moonshine (Jeffries et al., 2024, arXiv:2410.15608)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import nn
from torch.nn import functional as F

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, EncoderPaddingMask, Input, PaddingMask, TokenIds
from .layers.activations import Activation
from .layers.attention import (
    CachedMultiHeadAttention,
    attend,
    attend_evenly,
    merge_heads,
    split_heads,
)
from .layers.cache import Crossing, CrossKeyValueShape, Pair, Past, Step, encoder_decoder_outputs
from .layers.convolution import Conv1D, GroupNormalization
from .layers.core import Dense, Dropout, LayerNormalization, ReversibleEmbedding
from .layers.division import Division
from .layers.dtypes import DTypeLike, DTypePolicyMap
from .layers.initializers import truncated_normal
from .layers.layer import Layer
from .layers.layout import GRAPH, Graph, Layout, Stack
from .layers.masks import CAUSAL, Mask, padding_mask_of
from .layers.rotary import Tables, pair_tables, rotary_frequencies, rotate_pairs

# Size and stride of each, and the fewest samples of which they make a frame.
CONVOLUTIONS = ((127, 64), (7, 3), (3, 2))
SHORTEST = 127 + 64 * (6 + 3 * 2)
Audio = Annotated[
    torch.Tensor, Input("values", ("batch", "encoder_length", "channels"), remembered=True)
]


def padded_head_dim(hidden_dim: int, num_heads: int, multiple: int | None) -> int:
    """Size of one head, rounded up to a multiple."""
    size = hidden_dim // num_heads
    return -(-size // multiple) * multiple if multiple else size


def stored_frequencies(head_dim: int, theta: float, factor: float) -> torch.Tensor:
    """Angle per position for each pair among the first `factor` of a head's dimensions.

    Raises:
        ValueError: there are none.
    """
    dim = int(head_dim * factor) // 2 * 2
    if dim <= 0:
        raise ValueError(
            f"partial_rotary_factor={factor} of a head's {head_dim} dimensions are too few to turn."
        )
    return rotary_frequencies(dim, theta)


class MoonshineRotaryEmbedding(Layer):
    """The frequencies, which are stored though not trained."""

    fixed_dtype = "float32"
    inv_freq: torch.Tensor

    def __init__(self, head_dim: int, theta: float, factor: float) -> None:
        super().__init__()
        self.register_buffer("inv_freq", stored_frequencies(head_dim, theta, factor))

    def forward(self, positions: int | torch.Tensor, dtype: torch.dtype) -> Tables:
        """Cosines and sines, see `pair_tables`."""
        return pair_tables(positions, self.inv_freq, dtype)


class MoonshineMultiHeadAttention(CachedMultiHeadAttention):
    """As `MultiHeadAttention`, with positions where `tables` are given."""

    def forward(  # type: ignore[override]
        self,
        x: torch.Tensor,
        key_value: torch.Tensor,
        tables: Tables | None = None,
        mask: Mask = None,
        past: Past | Crossing | None = None,
    ) -> torch.Tensor:
        def turn(heads: torch.Tensor) -> torch.Tensor:
            return heads if tables is None else rotate_pairs(heads, tables)

        def keys_values(x: torch.Tensor) -> Pair:
            key, value = self.keys_values(x)
            return turn(key), value

        q = turn(split_heads(self.query(x), self.num_heads))
        k, v = keys_values(key_value) if past is None else past.keys_values(key_value, keys_values)
        if isinstance(mask, torch.Tensor) and self.dropout == 0:
            x = attend_evenly(q, k, v, mask)
        else:
            dropout = self.dropout if self.training else 0.0
            x = attend(q, k, v, mask, dropout=dropout)
        return self.attention_output(merge_heads(x))


class MoonshineMLP(Layer):
    division = Division(("dense_1",), ("dense_2",))

    def __init__(self, hidden_dim: int, expansion: int, initializer_range: float) -> None:
        super().__init__()
        init = truncated_normal(initializer_range)
        self.dense_1 = Dense(hidden_dim, hidden_dim * expansion, True, init)
        self.activation = Activation("gelu")
        self.dense_2 = Dense(hidden_dim * expansion, hidden_dim, True, init)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense_2(self.activation(self.dense_1(x)))


class MoonshineGatedMLP(Layer):
    layout = Layout(
        class_name="MoonshineMLP",
    )
    division = Division(("dense_1",), ("dense_2",), {"dense_1": 2})

    def __init__(self, hidden_dim: int, expansion: int, initializer_range: float) -> None:
        super().__init__()
        init = truncated_normal(initializer_range)
        self.dense_1 = Dense(hidden_dim, 2 * hidden_dim * expansion, True, init)
        self.dense_2 = Dense(hidden_dim * expansion, hidden_dim, True, init)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, gate = self.dense_1(x).chunk(2, dim=-1)
        return self.dense_2(x * F.silu(gate))


class MoonshineEncoderBlock(Layer):
    def __init__(
        self, attention: dict[str, Any], mlp: type[nn.Module], expansion: int, deviation: float
    ) -> None:
        super().__init__()
        dim = attention["hidden_dim"]
        self.self_attention_layer = MoonshineMultiHeadAttention(**attention)
        self.self_attention_layer_norm = LayerNormalization(dim, 1e-5, center=False)
        self.feedforward_layer_norm = LayerNormalization(dim, 1e-5, center=False)
        self.feedforward = mlp(dim, expansion, deviation)

    def forward(
        self, x: torch.Tensor, tables: Tables, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        y = self.self_attention_layer_norm(x)
        x = x + self.self_attention_layer(y, y, tables, mask)
        return x + self.feedforward(self.feedforward_layer_norm(x))


class MoonshineDecoderBlock(Layer):
    layout = Layout(
        unnamed=("norm1", "self_attention", "norm2", "cross_attention", "norm3", "ff"),
    )

    def __init__(
        self, attention: dict[str, Any], mlp: type[nn.Module], expansion: int, deviation: float
    ) -> None:
        super().__init__()
        dim = attention["hidden_dim"]
        self.norm1 = LayerNormalization(dim, 1e-5, center=False)
        self.self_attention = MoonshineMultiHeadAttention(**attention)
        self.norm2 = LayerNormalization(dim, 1e-5, center=False)
        self.cross_attention = MoonshineMultiHeadAttention(**attention)
        self.norm3 = LayerNormalization(dim, 1e-5, center=False)
        self.ff = mlp(dim, expansion, deviation)

    def forward(
        self,
        x: torch.Tensor,
        encoded: torch.Tensor | None,
        tables: Tables,
        mask: Mask = CAUSAL,
        encoded_mask: torch.Tensor | None = None,
        past: Past | None = None,
        crossing: Crossing | None = None,
    ) -> torch.Tensor:
        """`mask` includes the causal one."""
        y = self.norm1(x)
        x = x + self.self_attention(y, y, tables, mask, past)
        x = x + self.cross_attention(self.norm2(x), encoded, None, encoded_mask, crossing)
        return x + self.ff(self.norm3(x))


# The order in which KerasHub assigns its layers.
ASSIGNED = (
    "conv1",
    "group_norm",
    "conv2",
    "conv3",
    "token_embedding",
    "encoder_rotary_embedding",
    "decoder_rotary_embedding",
    "encoder_blocks",
    "encoder_final_layer_norm",
    "decoder_blocks",
    "decoder_post_norm",
)


class MoonshineBackbone(Backbone):
    """Encoder of raw audio at 16 kHz, and a decoder; rotary positions in both.

    `encoder_input_values` `[batch, samples, 1]`, `encoder_padding_mask` `[batch, samples]`,
    `decoder_token_ids`, `decoder_padding_mask` `[batch, length]` → `encoder_sequence_output`
    `[batch, frames, hidden_dim]`, `decoder_sequence_output` `[batch, length, hidden_dim]` and
    `encoder_attention_mask` `[batch, frames]`, boolean. There is a frame for every 384 samples
    after the first 127.

    Args:
        vocabulary_size: number of token ids.
        filter_dim: channels of the convolutions; it must be `hidden_dim`.
        encoder_num_layers: number of the encoder's blocks.
        decoder_num_layers: number of the decoder's blocks.
        hidden_dim: width of the hidden states.
        intermediate_dim: has no effect, as in KerasHub: `feedforward_expansion_factor` says it.
        encoder_num_heads: heads of the encoder, each of `hidden_dim // encoder_num_heads`
            dimensions.
        decoder_num_heads: heads of the decoder, likewise.
        feedforward_expansion_factor: width inside the feed-forward networks, divided by
            `hidden_dim`.
        encoder_use_swiglu_activation: whether the encoder's feed-forward networks are gated (SiLU),
            or have a GELU.
        decoder_use_swiglu_activation: the decoder's, likewise.
        max_position_embeddings: has no effect, as in KerasHub.
        pad_head_dim_to_multiple_of: the dimensions of a head are rounded up to a multiple of it;
            `None` leaves them.
        partial_rotary_factor: share of a head's dimensions that is rotated.
        dropout: rate on the inputs of the encoder's blocks, and of the decoder's.
        initializer_range: standard deviation of the initial weights.
        rope_theta: base of the rotary frequencies.
        attention_bias: whether the projections of attention have biases.
        attention_dropout: rate on the attention weights.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: `filter_dim` is not `hidden_dim`, or heads are too small for rotary positions;
            fewer than 895 samples.
    """

    def __init__(
        self,
        vocabulary_size: int,
        filter_dim: int,
        encoder_num_layers: int,
        decoder_num_layers: int,
        hidden_dim: int,
        intermediate_dim: int,
        encoder_num_heads: int,
        decoder_num_heads: int,
        feedforward_expansion_factor: int = 4,
        encoder_use_swiglu_activation: bool = False,
        decoder_use_swiglu_activation: bool = True,
        max_position_embeddings: int = 2048,
        pad_head_dim_to_multiple_of: int | None = None,
        partial_rotary_factor: float = 0.62,
        dropout: float = 0.0,
        initializer_range: float = 0.02,
        rope_theta: float = 10000.0,
        attention_bias: bool = False,
        attention_dropout: float = 0.0,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if filter_dim != hidden_dim:
            raise ValueError(f"filter_dim={filter_dim} must be hidden_dim={hidden_dim}.")
        init = truncated_normal(initializer_range)

        def head_dim(num_heads: int) -> int:
            return padded_head_dim(hidden_dim, num_heads, pad_head_dim_to_multiple_of)

        def block(num_heads: int, gated: bool) -> tuple[Any, ...]:
            attention = {
                "num_heads": num_heads,
                "hidden_dim": hidden_dim,
                "key_dim": head_dim(num_heads),
                "dropout": attention_dropout,
                "use_bias": attention_bias,
                "kernel_initializer": init,
            }
            mlp = MoonshineGatedMLP if gated else MoonshineMLP
            return attention, mlp, feedforward_expansion_factor, initializer_range

        encoder = block(encoder_num_heads, encoder_use_swiglu_activation)
        decoder = block(decoder_num_heads, decoder_use_swiglu_activation)
        rotary = (rope_theta, partial_rotary_factor)
        self.conv1 = Conv1D(1, filter_dim, 127, 64, use_bias=False, kernel_initializer=init)
        self.group_norm = GroupNormalization(1, filter_dim, 1e-5)
        self.conv2 = Conv1D(filter_dim, 2 * filter_dim, 7, 3, kernel_initializer=init)
        self.conv3 = Conv1D(2 * filter_dim, filter_dim, 3, 2, kernel_initializer=init)
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, embeddings_initializer=init
        )
        self.encoder_rotary_embedding = MoonshineRotaryEmbedding(
            head_dim(encoder_num_heads), *rotary
        )
        self.decoder_rotary_embedding = MoonshineRotaryEmbedding(
            head_dim(decoder_num_heads), *rotary
        )
        self.encoder_dropout = Dropout(dropout)
        self.decoder_dropout = Dropout(dropout)
        self.encoder_blocks = Stack(
            "encoder_block_{}", (MoonshineEncoderBlock(*encoder) for _ in range(encoder_num_layers))
        )
        self.encoder_final_layer_norm = LayerNormalization(hidden_dim, 1e-5, center=False)
        self.decoder_blocks = Stack(
            "decoder_block_{}", (MoonshineDecoderBlock(*decoder) for _ in range(decoder_num_layers))
        )
        self.decoder_post_norm = LayerNormalization(hidden_dim, 1e-5, center=False)
        shape = CrossKeyValueShape(decoder_num_heads, head_dim(decoder_num_heads))
        self.cache_shapes = [shape] * decoder_num_layers

    @property
    def layout(self) -> Layout:
        graph = Graph()
        x = graph("conv1", graph("encoder_input_values"))
        x = graph("conv2", graph("group_norm", graph("tanh_after_conv1", x)))
        x = graph("gelu_after_conv3", graph("conv3", graph("gelu_after_conv2", x)))
        mask = graph("compute_attention_mask", x, graph("encoder_padding_mask"))
        tables = graph("encoder_rotary_embedding", graph("encoder_positions", x))
        x = graph("encoder_dropout", x)
        for layer in self.encoder_blocks.names():
            x = graph(layer, x, tables, mask)
        encoded = graph("encoder_final_layer_norm", x)
        ids, decoder_mask = graph("decoder_token_ids"), graph("decoder_padding_mask")
        tables = graph("decoder_rotary_embedding", graph("decoder_positions", ids))
        x = graph("decoder_dropout", graph("token_embedding", ids))
        for layer in self.decoder_blocks.names():
            x = graph(layer, decoder_mask, x, mask, encoded, tables)
        decoded = graph("decoder_post_norm", x)
        return replace(GRAPH, order=graph.order(decoded, mask, encoded), assigned=ASSIGNED)

    def get_config(self) -> dict[str, Any]:
        config, policy = super().get_config(), self.dtype_policy
        if not isinstance(policy, DTypePolicyMap):  # which KerasHub could not save
            config["dtype"] = policy.name  # not serialized
        return config

    def encode(
        self, audio: Audio, padding_mask: EncoderPaddingMask | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The frames, and which of them are real, `[batch, frames]`, if not all."""
        if audio.shape[2] != 1 or (not torch.compiler.is_compiling() and audio.shape[1] < SHORTEST):
            raise ValueError(
                f"encoder_input_values must be [batch, samples, 1] of at least {SHORTEST} samples, "
                f"not {tuple(audio.shape)}."
            )
        x = self.group_norm(torch.tanh(self.conv1(audio.flatten(1)[:, None])))
        x = F.gelu(self.conv3(F.gelu(self.conv2(x)))).mT
        mask = None
        if padding_mask is not None:
            frames = count_frames(padding_mask.bool().sum(1))
            mask = torch.arange(x.shape[1], device=x.device) < frames[:, None]
        tables = self.encoder_rotary_embedding(x.shape[1], x.dtype)
        x = self.encoder_dropout(x)
        for block in self.encoder_blocks:
            x = block(x, tables, padding_mask_of(mask))
        return self.encoder_final_layer_norm(x), mask

    def forward(
        self,
        encoder_input_values: Audio,
        decoder_token_ids: TokenIds,
        encoder_padding_mask: EncoderPaddingMask | None = None,
        decoder_padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> dict[str, torch.Tensor]:
        encoded = frames_mask = None  # where an earlier call has heard the audio
        if encoder_input_values is not None:
            encoded, frames_mask = self.encode(encoder_input_values, encoder_padding_mask)
        step = Step(decoder_token_ids, decoder_padding_mask, cache, cache_update_index)
        frames_mask = step.encoded_mask(encoded, frames_mask)
        encoded_mask = padding_mask_of(frames_mask)
        x = self.decoder_dropout(self.token_embedding(decoder_token_ids))
        tables = self.decoder_rotary_embedding(step.positions, x.dtype)
        mask = step.mask()
        for i, block in enumerate(self.decoder_blocks):
            x = block(x, encoded, tables, mask, encoded_mask, step.past(i), step.cross(i))
        outputs = encoder_decoder_outputs(encoded, self.decoder_post_norm(x))
        if encoded is not None:
            if frames_mask is None:
                frames_mask = encoded.new_ones(encoded.shape[:2], dtype=torch.bool)
            outputs["encoder_attention_mask"] = frames_mask
        return outputs


def count_frames(samples: torch.Tensor) -> torch.Tensor:
    """How many frames the convolutions make of so many samples."""
    for size, stride in CONVOLUTIONS:
        samples = (samples - size) // stride + 1
    return samples.clamp(min=0)
