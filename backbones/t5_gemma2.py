"""T5Gemma 2 (arXiv:2512.14856): an encoder and a decoder with the blocks of Gemma 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ._backbone import Backbone
from ._gemma3_vision import Gemma3VisionEncoder, ImagesOfRows, VisionIndices
from ._inputs import (
    CacheIndex,
    CacheState,
    EncoderPaddingMask,
    EncoderTokenIds,
    PaddingMask,
    TokenIds,
)
from .layers.cache import Crossing, Past, Step, encoder_decoder_outputs
from .layers.core import Dropout, Embedding, ReversibleEmbedding, UnitRMSNormalization
from .layers.dtypes import DTypeLike
from .layers.gemma import scale_embeddings
from .layers.initializers import random_normal
from .layers.layer import Layer
from .layers.layout import Graph, Kind, Layout, Stack
from .layers.masks import FULL, SLIDING, hiding_bias, padding_bias
from .layers.multimodal import check_width, interleave
from .layers.rotary import Tables, rotary_frequencies, rotary_tables, rotate
from .layers.t5_gemma import (
    T5GemmaAttention,
    T5GemmaEncoderLayer,
    T5GemmaMLP,
    check_layers,
    cross_shapes,
    soft_capped,
)

GLOBAL_WAVELENGTH = 1e6


class T5Gemma2Attention(T5GemmaAttention):
    """The attention under its Keras name."""


class T5Gemma2MergedAttention(T5GemmaAttention):
    """Self- and cross-attention in one: the keys of both sides share projections and a softmax."""

    def forward(  # type: ignore[override]
        self,
        x: torch.Tensor,
        encoded: torch.Tensor,
        bias: torch.Tensor,
        tables: Tables,
        past: Past | None = None,
        crossing: Crossing | None = None,
    ) -> torch.Tensor:
        """`bias` is that of the decoder's keys, then of the encoder's, which have no positions."""
        q = rotate(self.queries(x), tables)
        own = self.own_keys_values(x, tables, past)
        others = (
            self.keys_values(encoded)
            if crossing is None
            else crossing.keys_values(encoded, self.keys_values)
        )
        k, v = (torch.cat(both, dim=2) for both in zip(own, others))
        return self.attend(q, k, v, bias)


class T5Gemma2MLP(T5GemmaMLP):
    """The feed-forward network under its Keras name."""


class T5Gemma2EncoderLayer(T5GemmaEncoderLayer):
    """The block under its Keras name."""


class T5Gemma2DecoderLayer(Layer):
    layout = Layout(
        attributes={
            "merged_attention": "merged_attn",
            "decoder_pre_self_attention_layernorm": "pre_self_attn_layernorm",
            "decoder_post_self_attention_layernorm": "post_self_attn_layernorm",
            "decoder_pre_feedforward_layernorm": "pre_feedforward_layernorm",
            "decoder_post_feedforward_layernorm": "post_feedforward_layernorm",
        },
    )

    def __init__(
        self,
        hidden_dim: int,
        merged_attention: T5Gemma2MergedAttention,
        mlp: T5Gemma2MLP,
        epsilon: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.merged_attention = merged_attention
        self.decoder_pre_self_attention_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.decoder_post_self_attention_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.mlp = mlp
        self.decoder_pre_feedforward_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.decoder_post_feedforward_layernorm = UnitRMSNormalization(hidden_dim, epsilon)
        self.decoder_residual_dropout = Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        encoded: torch.Tensor | None,
        bias: torch.Tensor,
        tables: Tables,
        past: Past | None = None,
        crossing: Crossing | None = None,
    ) -> torch.Tensor:
        y = self.decoder_pre_self_attention_layernorm(x)
        y = self.merged_attention(y, encoded, bias, tables, past, crossing)
        x = x + self.decoder_residual_dropout(self.decoder_post_self_attention_layernorm(y))
        y = self.mlp(self.decoder_pre_feedforward_layernorm(x))
        return x + self.decoder_residual_dropout(self.decoder_post_feedforward_layernorm(y))


# The order in which KerasHub assigns its layers.
ASSIGNED = (
    "vision_encoder",
    "token_embedding",
    "decoder_token_embedding",
    "encoder_layers",
    "encoder_norm",
    "decoder_layers",
    "decoder_norm",
)


class T5Gemma2Backbone(Backbone):
    """Encoder-decoder whose sides have one width; the encoder may see images.

    `encoder_token_ids`, `encoder_padding_mask` `[batch, encoder_length]`, `decoder_token_ids`,
    `decoder_padding_mask` `[batch, length]`, `images`
    `[batch, images, image_size, image_size, 3]`, `vision_indices` `[batch, images · tokens]` →
    `encoder_sequence_output` and `decoder_sequence_output`, with the width as last axis.

    Args:
        vocabulary_size: number of token ids.
        encoder_hidden_dim: width of the encoder's hidden states.
        encoder_intermediate_dim: width inside its feed-forward networks.
        encoder_num_layers: number of its blocks.
        encoder_num_attention_heads: heads of its queries.
        encoder_num_key_value_heads: heads of its keys and values, a divisor of that.
        encoder_head_dim: dimensions of a head.
        encoder_layer_types: `sliding_attention` or `full_attention` for each block.
        decoder_hidden_dim: width of the decoder's hidden states, the encoder's.
        decoder_intermediate_dim: width inside its feed-forward networks.
        decoder_num_layers: number of its blocks.
        decoder_num_attention_heads: heads of its queries.
        decoder_num_key_value_heads: heads of its keys and values, a divisor of that.
        decoder_head_dim: dimensions of a head.
        decoder_layer_types: `sliding_attention` or `full_attention` for each block.
        dropout_rate: rate on the embeddings, within the feed-forward networks, on the output of
            each sublayer and of each side.
        rms_norm_eps: of the norms.
        query_pre_attn_scalar: the attention scores are divided by its root.
        attention_bias: whether the projections of attention have biases.
        hidden_activation: of the feed-forward networks, by its Keras name.
        tie_word_embeddings: whether `decoder_token_embedding(x, reverse=True)` uses the embedding's
            own matrix, not a second one.
        initializer_range: standard deviation of the initial embeddings and projections.
        attention_dropout: rate on the attention weights.
        sliding_window: keys that a query of `sliding_attention` sees, itself included: in the
            decoder those before it, in the encoder those around it. `None` if there is none.
        cross_attention_hidden_size: has no effect, as in KerasHub; `None` becomes
            `encoder_hidden_dim`.
        attn_logit_softcapping: bound on the attention scores, by tanh; `None` for none.
        final_logit_softcapping: bound on the logits that `generate` sees, by tanh.
        rope_max_wavelength: base of the rotary frequencies in `sliding_attention`; in
            `full_attention` it is 1e6.
        global_rope_scaling_factor: divides the positions in `full_attention`.
        encoder_rope_max_wavelength: the encoder's; `None` for the decoder's, `rope_max_wavelength`.
        encoder_global_rope_scaling_factor: the encoder's; `None` for the decoder's,
            `global_rope_scaling_factor`.
        use_query_key_norm: whether the queries and keys of each head are normed.
        vision_encoder: the tower of images; `None` for a model of text, which has no inputs for
            them.
        eoi_token_index: the token that ends an image. With a `vision_encoder` it has vectors of its
            own, which are not scaled.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: the sides differ in width; the layer types are fewer than the layers, or
            unknown, or there is no `sliding_window` for them; images without indices.
    """

    keras_module = "keras_hub.src.models.t5gemma2.t5gemma2_backbone"

    unsaved: ClassVar = {"vision_encoder": (None,)}
    tower_inputs: ClassVar = {"vision_encoder": ("images", "vision_indices")}

    def __init__(
        self,
        vocabulary_size: int,
        encoder_hidden_dim: int,
        encoder_intermediate_dim: int,
        encoder_num_layers: int,
        encoder_num_attention_heads: int,
        encoder_num_key_value_heads: int,
        encoder_head_dim: int,
        encoder_layer_types: Sequence[str],
        decoder_hidden_dim: int,
        decoder_intermediate_dim: int,
        decoder_num_layers: int,
        decoder_num_attention_heads: int,
        decoder_num_key_value_heads: int,
        decoder_head_dim: int,
        decoder_layer_types: Sequence[str],
        dropout_rate: float = 0.0,
        rms_norm_eps: float = 1e-6,
        query_pre_attn_scalar: float = 1.0,
        attention_bias: bool = False,
        hidden_activation: str = "gelu_approximate",
        tie_word_embeddings: bool = True,
        initializer_range: float = 0.02,
        attention_dropout: float = 0.0,
        sliding_window: int | None = None,
        cross_attention_hidden_size: int | None = None,
        attn_logit_softcapping: float | None = None,
        final_logit_softcapping: float | None = None,
        rope_max_wavelength: float = 10000.0,
        global_rope_scaling_factor: float = 1.0,
        encoder_rope_max_wavelength: float | None = None,
        encoder_global_rope_scaling_factor: float | None = None,
        use_query_key_norm: bool = True,
        vision_encoder: Gemma3VisionEncoder | None = None,
        eoi_token_index: int = 256000,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.vision_encoder = vision_encoder
        if vision_encoder is not None:
            width = vision_encoder.output_dim
            check_width("vision_encoder", "output_dim", width, encoder_hidden_dim)
        self.cross_attention_hidden_size = cross_attention_hidden_size or encoder_hidden_dim
        if encoder_hidden_dim != decoder_hidden_dim:
            raise ValueError(
                f"encoder_hidden_dim={encoder_hidden_dim} and decoder_hidden_dim="
                f"{decoder_hidden_dim} differ, but both go through the same projections."
            )
        check_layers(encoder_layer_types, encoder_num_layers, sliding_window)
        check_layers(decoder_layer_types, decoder_num_layers, sliding_window)
        self.encoder_head_dim = encoder_head_dim
        self.decoder_head_dim = decoder_head_dim
        self.encoder_layer_types = encoder_layer_types
        self.decoder_layer_types = decoder_layer_types
        self.window = sliding_window
        self.final_logit_softcapping = final_logit_softcapping
        self.eoi_token_index = eoi_token_index
        # Wavelength of layers with windows, and scaling factor of the others.
        self.decoder_rotary = (rope_max_wavelength, global_rope_scaling_factor)
        self.encoder_rotary = (
            rope_max_wavelength
            if encoder_rope_max_wavelength is None
            else encoder_rope_max_wavelength,
            global_rope_scaling_factor
            if encoder_global_rope_scaling_factor is None
            else encoder_global_rope_scaling_factor,
        )
        init = random_normal(initializer_range)
        attention: dict[str, Any] = {
            "query_pre_attn_scalar": query_pre_attn_scalar,
            "use_bias": attention_bias,
            "initializer_range": initializer_range,
            "dropout": attention_dropout,
            "logit_soft_cap": attn_logit_softcapping,
        }

        def norm(dim: int) -> nn.Module | None:
            return UnitRMSNormalization(dim, rms_norm_eps) if use_query_key_norm else None

        encoder_heads = (encoder_num_attention_heads, encoder_num_key_value_heads, encoder_head_dim)
        decoder_heads = (decoder_num_attention_heads, decoder_num_key_value_heads, decoder_head_dim)
        mlp = (hidden_activation, dropout_rate, initializer_range)

        self.encoder_token_embedding = Embedding(vocabulary_size, encoder_hidden_dim, init)
        if self.vision_encoder is not None:
            self.encoder_eoi_embedding = nn.Parameter(torch.zeros(encoder_hidden_dim))
            self.decoder_eoi_embedding = nn.Parameter(torch.zeros(decoder_hidden_dim))
        self.encoder_dropout = Dropout(dropout_rate)
        self.encoder_layers = Stack(
            "encoder_layer_{}",
            (
                T5Gemma2EncoderLayer(
                    encoder_hidden_dim,
                    T5Gemma2Attention(
                        encoder_hidden_dim,
                        encoder_hidden_dim,
                        *encoder_heads,
                        **attention,
                        query_norm=norm(encoder_head_dim),
                        key_norm=norm(encoder_head_dim),
                    ),
                    T5Gemma2MLP(encoder_hidden_dim, encoder_intermediate_dim, *mlp),
                    rms_norm_eps,
                    dropout_rate,
                )
                for _ in range(encoder_num_layers)
            ),
        )
        self.encoder_norm = UnitRMSNormalization(encoder_hidden_dim, rms_norm_eps)
        self.decoder_token_embedding = ReversibleEmbedding(
            vocabulary_size, decoder_hidden_dim, tie_word_embeddings, init
        )
        self.decoder_dropout = Dropout(dropout_rate)
        self.decoder_layers = Stack(
            "decoder_layer_{}",
            (
                T5Gemma2DecoderLayer(
                    decoder_hidden_dim,
                    T5Gemma2MergedAttention(
                        decoder_hidden_dim,
                        decoder_hidden_dim,
                        *decoder_heads,
                        **attention,
                        query_norm=norm(decoder_head_dim),
                        key_norm=norm(decoder_head_dim),
                    ),
                    T5Gemma2MLP(decoder_hidden_dim, decoder_intermediate_dim, *mlp),
                    rms_norm_eps,
                    dropout_rate,
                )
                for _ in range(decoder_num_layers)
            ),
        )
        self.decoder_norm = UnitRMSNormalization(decoder_hidden_dim, rms_norm_eps)
        self.cache_shapes = cross_shapes(
            decoder_layer_types[:decoder_num_layers],
            decoder_num_key_value_heads,
            decoder_head_dim,
            sliding_window,
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.decoder_token_embedding(hidden, reverse=True)
        return soft_capped(logits, self.final_logit_softcapping)

    if not TYPE_CHECKING:

        @property
        def token_embedding(self) -> Embedding:
            """The encoder's."""
            return self.encoder_token_embedding

    @property
    def layout(self) -> Layout:
        graph = Graph()
        ids, mask = graph("encoder_token_ids"), graph("encoder_padding_mask")
        x = graph("multiply", graph("encoder_token_embedding", ids))
        if self.vision_encoder is not None:
            text = graph("multiply_1", graph("subtract", graph("eoi_mask", ids)), x)
            x = graph("add", graph("multiply_2", graph("eoi_mask", ids)), text)
            images = graph(self.vision_encoder.name, graph("images"))
            x = graph("interleave_embeddings", images, x, graph("vision_indices"))
        x = graph("encoder_dropout", x)
        for layer in self.encoder_layers.names():
            x = graph(layer, x, mask)
        encoded = graph("encoder_dropout", graph("encoder_norm", x))
        ids, decoder_mask = graph("decoder_token_ids"), graph("decoder_padding_mask")
        x = graph("multiply_3", graph("decoder_token_embedding", ids))
        if self.vision_encoder is not None:
            text = graph("multiply_4", graph("subtract_1", graph("eoi_mask_1", ids)), x)
            x = graph("add_1", graph("multiply_5", graph("eoi_mask_1", ids)), text)
        x = graph("decoder_dropout", x)
        for layer in self.decoder_layers.names():
            x = graph(layer, x, encoded, mask, decoder_mask)
        decoded = graph("decoder_dropout", graph("decoder_norm", x))
        return Layout(
            Kind.GRAPH,
            attributes={"encoder_token_embedding": "token_embedding"},
            unnamed=("encoder_norm", "decoder_norm"),
            order=graph.order(decoded, encoded),
            assigned=ASSIGNED,
        )

    def encode(
        self,
        token_ids: EncoderTokenIds,
        padding_mask: EncoderPaddingMask,
        images: ImagesOfRows | None,
        vision_indices: VisionIndices | None,
    ) -> torch.Tensor:
        if self.vision_encoder is not None and images is not None:
            self.vision_encoder.check(images, vision_indices, token_ids)
        x = scale_embeddings(self.encoder_token_embedding(token_ids))
        if self.vision_encoder is not None:
            ends = (token_ids == self.eoi_token_index)[..., None]
            x = torch.where(ends, self.encoder_eoi_embedding.to(x.dtype), x)
            if images is not None and vision_indices is not None:
                tokens = self.vision_encoder.tokens_of_rows(images)
                x = interleave(x, tokens, vision_indices, kept=1)
        x = self.encoder_dropout(x)
        bias = padding_bias(padding_mask)
        biases = {FULL: bias}
        if self.window is not None:
            outside = hiding_bias(centered_window(x.shape[1], self.window, x.device))
            biases[SLIDING] = bias + outside
        tables = _tables(x.shape[1], x, self.encoder_head_dim, *self.encoder_rotary)
        for layer, kind in zip(self.encoder_layers, self.encoder_layer_types):
            x = layer(x, biases[kind], tables[kind])
        return self.encoder_dropout(self.encoder_norm(x))

    def forward(
        self,
        encoder_token_ids: EncoderTokenIds,
        decoder_token_ids: TokenIds,
        encoder_padding_mask: EncoderPaddingMask | None = None,
        decoder_padding_mask: PaddingMask | None = None,
        images: ImagesOfRows | None = None,
        vision_indices: VisionIndices | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> dict[str, torch.Tensor]:
        encoded = None  # where an earlier call has seen the encoder's inputs
        if encoder_token_ids is not None:
            if encoder_padding_mask is None:
                encoder_padding_mask = torch.ones_like(encoder_token_ids)
            encoded = self.encode(encoder_token_ids, encoder_padding_mask, images, vision_indices)
        step = Step(decoder_token_ids, decoder_padding_mask, cache, cache_update_index)
        encoded_mask = step.encoded_mask(encoded, encoder_padding_mask)
        assert encoded_mask is not None
        encoded_bias = padding_bias(encoded_mask)
        x = scale_embeddings(self.decoder_token_embedding(decoder_token_ids))
        if self.vision_encoder is not None:
            ends = (decoder_token_ids == self.eoi_token_index)[..., None]
            x = torch.where(ends, self.decoder_eoi_embedding.to(x.dtype), x)
        x = self.decoder_dropout(x)
        hidden = {FULL: hiding_bias(step.full_mask())}
        if self.window is not None:
            hidden[SLIDING] = hiding_bias(step.full_mask(self.window))
        biases = {kind: _side_by_side(bias, encoded_bias) for kind, bias in hidden.items()}
        tables = _tables(step.positions, x, self.decoder_head_dim, *self.decoder_rotary)
        for i, (layer, kind) in enumerate(zip(self.decoder_layers, self.decoder_layer_types)):
            x = layer(x, encoded, biases[kind], tables[kind], step.past(i), step.cross(i))
        decoded = self.decoder_dropout(self.decoder_norm(x))
        return encoder_decoder_outputs(encoded, decoded)


def _side_by_side(bias: torch.Tensor, encoded_bias: torch.Tensor) -> torch.Tensor:
    """Of both sides' keys, `[batch, 1, length, keys + encoder_length]`."""
    bias = bias.expand(encoded_bias.shape[0], -1, -1, -1)
    return torch.cat((bias, encoded_bias.expand(-1, -1, bias.shape[2], -1)), dim=-1)


def centered_window(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Which keys each query sees, `[length, length]`: of an even window one more lies after it."""
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions
    return (distance < (window + 1) // 2) & (-distance < window // 2 + 1)


def _tables(
    positions: int | torch.Tensor, x: torch.Tensor, dim: int, wavelength: float, factor: float
) -> dict[str, Tables]:
    """Rotary tables for each type of layer."""
    frequencies = {
        SLIDING: rotary_frequencies(dim, wavelength, x.device),
        FULL: rotary_frequencies(dim, GLOBAL_WAVELENGTH, x.device, factor),
    }
    return {kind: rotary_tables(positions, f, x.dtype) for kind, f in frequencies.items()}
