"""T5 (Raffel et al., 2019, arXiv:1910.10683) and T5 1.1, Flan-T5."""

from __future__ import annotations

import math

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import (
    CacheIndex,
    CacheState,
    EncoderPaddingMask,
    EncoderTokenIds,
    PaddingMask,
    TokenIds,
)
from .layers.activations import Activation, ActivationLike
from .layers.attention import attend_biased, merge_heads, split_heads
from .layers.cache import (
    Crossing,
    CrossKeyValueShape,
    Pair,
    Past,
    Step,
    encoder_decoder_outputs,
)
from .layers.core import Dense, Dropout, ReversibleEmbedding, RMSNormalization
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal, truncated_normal
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.masks import hiding_bias, padding_bias

BUCKETS = 32
MAX_DISTANCE = 128


class T5LayerNorm(RMSNormalization):
    pass


class T5MultiHeadAttention(Layer):
    """Attention without a scale; the positions come in as a bias on the scores."""

    def __init__(
        self,
        hidden_dim: int,
        key_value_dim: int,
        num_heads: int,
        dropout: float,
        is_decoder: bool,
        use_relative_attention_bias: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.is_decoder = is_decoder
        inner_dim = num_heads * key_value_dim
        init = random_normal(inner_dim**-0.5)
        init_query = random_normal((inner_dim * key_value_dim) ** -0.5)
        self.relative_attention_bias: nn.Parameter | None = None
        if use_relative_attention_bias:
            self.relative_attention_bias = nn.Parameter(torch.empty(BUCKETS, num_heads))
            init(self.relative_attention_bias, BUCKETS, num_heads)
        self.query_projector = Dense(hidden_dim, inner_dim, False, init_query)
        self.key_projector = Dense(hidden_dim, inner_dim, False, init)
        self.value_projector = Dense(hidden_dim, inner_dim, False, init)
        self.output_projector = Dense(inner_dim, hidden_dim, False, init)

    def keys_values(self, x: torch.Tensor) -> Pair:
        key = split_heads(self.key_projector(x), self.num_heads)
        return key, split_heads(self.value_projector(x), self.num_heads)

    def forward(
        self,
        x: torch.Tensor,
        key_value: torch.Tensor,
        bias: torch.Tensor,
        distance: torch.Tensor | None = None,
        past: Past | Crossing | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The result, and the bias for the next layers: the first one adds that of positions.

        `distance` is from queries to keys, `[1 or batch, length, keys]`.
        """
        if self.relative_attention_bias is not None and distance is not None:
            buckets = relative_buckets(distance, not self.is_decoder)
            # `[1 or batch, heads, length, keys]`, looked up by the buckets of the distances.
            table = self.relative_attention_bias.float()
            bias = bias + table[buckets].permute(0, 3, 1, 2)
        q = split_heads(self.query_projector(x), self.num_heads)
        k, v = (
            self.keys_values(key_value)
            if past is None
            else past.keys_values(key_value, self.keys_values)
        )
        dropout = self.dropout if self.training else 0.0
        x = attend_biased(q, k, v, bias, scale=1.0, dropout=dropout)
        return self.output_projector(merge_heads(x)), bias


def relative_buckets(distance: torch.Tensor, bidirectional: bool) -> torch.Tensor:
    """Key position minus query position → bucket: exact when near, logarithmic when far."""
    buckets, base = BUCKETS, torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        base = (distance > 0) * buckets
        distance = distance.abs()
    else:
        distance = -distance.clamp(max=0)
    exact = buckets // 2
    # Below `exact` the logarithm is not used; the clamp keeps it finite.
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(MAX_DISTANCE / exact)
    far = exact + (ratio * (buckets - exact)).to(distance.dtype)
    return base + torch.where(distance < exact, distance, far.clamp(max=buckets - 1))


class T5TransformerLayer(Layer):
    layout = Layout(
        unnamed=(
            "self_attention_layer_norm",
            "cross_attention_layer_norm",
            "layer_norm",
        ),
    )

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        key_value_dim: int,
        dropout: float,
        activation: ActivationLike,
        layer_norm_epsilon: float,
        num_heads: int,
        use_gated_activation: bool,
        is_decoder: bool,
        use_relative_attention_bias: bool,
    ) -> None:
        super().__init__()
        attention = (hidden_dim, key_value_dim, num_heads, dropout, is_decoder)
        self.self_attention = T5MultiHeadAttention(*attention, use_relative_attention_bias)
        self.self_attention_layer_norm = T5LayerNorm(hidden_dim, layer_norm_epsilon)
        self.self_attention_dropout = Dropout(dropout)
        if is_decoder:
            self.cross_attention = T5MultiHeadAttention(*attention)
            self.cross_attention_layer_norm = T5LayerNorm(hidden_dim, layer_norm_epsilon)
            self.cross_attention_dropout = Dropout(dropout)
        wide, narrow = random_normal(hidden_dim**-0.5), random_normal(intermediate_dim**-0.5)
        self.input_projector = Dense(hidden_dim, intermediate_dim, False, wide)
        self.gate_projector = (
            Dense(hidden_dim, intermediate_dim, False, wide) if use_gated_activation else None
        )
        self.activation = Activation(activation)
        self.output_projector = Dense(intermediate_dim, hidden_dim, False, narrow)
        self.layer_norm = T5LayerNorm(hidden_dim, layer_norm_epsilon)
        self.dropout_layer = Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        bias: torch.Tensor,
        distance: torch.Tensor,
        encoder_output: torch.Tensor | None = None,
        encoder_bias: torch.Tensor | None = None,
        past: Past | None = None,
        crossing: Crossing | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.self_attention_layer_norm(x)
        y, bias = self.self_attention(y, y, bias, distance, past)
        x = x + self.self_attention_dropout(y)
        if encoder_bias is not None:
            y = self.cross_attention_layer_norm(x)
            y, _ = self.cross_attention(y, encoder_output, encoder_bias, None, crossing)
            x = x + self.cross_attention_dropout(y)
        y = self.layer_norm(x)
        gate = self.activation(self.input_projector(y))
        y = gate if self.gate_projector is None else gate * self.gate_projector(y)
        return x + self.dropout_layer(self.output_projector(self.dropout_layer(y))), bias


class T5Backbone(Backbone):
    """Encoder-decoder with relative positions; both sides share the token embedding.

    `encoder_token_ids`, `encoder_padding_mask` `[batch, encoder_length]`, `decoder_token_ids`,
    `decoder_padding_mask` `[batch, length]` → `encoder_sequence_output` and
    `decoder_sequence_output`, with `hidden_dim` as last axis.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks of the encoder, and of the decoder.
        num_heads: number of attention heads.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        key_value_dim: dimensions of a head; `None` for `hidden_dim // num_heads`.
        dropout: rate on the embeddings, the attention weights, within the feed-forward networks, on
            the output of each sublayer and of each side.
        activation: of the feed-forward networks, by its Keras name.
        use_gated_activation: whether the feed-forward networks are gated.
        layer_norm_epsilon: of the norms.
        tie_embedding_weights: whether `token_embedding(x, reverse=True)` uses the embedding's own
            matrix, not a second one.
        dtype, trainable, name: as in `Model`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        key_value_dim: int | None = None,
        dropout: float = 0.1,
        activation: ActivationLike = "relu",
        use_gated_activation: bool = True,
        layer_norm_epsilon: float = 1e-6,
        tie_embedding_weights: bool = True,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)

        def layers(name: str, is_decoder: bool) -> Stack:
            return Stack(
                name,
                (
                    T5TransformerLayer(
                        hidden_dim,
                        intermediate_dim,
                        key_value_dim or hidden_dim // num_heads,
                        dropout,
                        activation,
                        layer_norm_epsilon,
                        num_heads,
                        use_gated_activation,
                        is_decoder,
                        use_relative_attention_bias=i == 0,
                    )
                    for i in range(num_layers)
                ),
            )

        self.token_embedding = ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=tie_embedding_weights,
            # KerasHub passes T5's deviation of 1.0 as the mean.
            embeddings_initializer=truncated_normal(0.05, mean=1.0),
        )
        self.encoder_embedding_dropout = Dropout(dropout)
        self.encoder_transformer_layers = layers("transformer_encoder_layer_{}", False)
        self.encoder_output_layer_norm = T5LayerNorm(hidden_dim, layer_norm_epsilon)
        self.decoder_embedding_dropout = Dropout(dropout)
        self.encoder_output_dropout = Dropout(dropout)
        self.decoder_transformer_layers = layers("transformer_decoder_layer_{}", True)
        self.decoder_output_layer_norm = T5LayerNorm(hidden_dim, layer_norm_epsilon)
        self.decoder_output_dropout = Dropout(dropout)
        self.logit_scale = hidden_dim**-0.5 if tie_embedding_weights else 1.0
        shape = CrossKeyValueShape(num_heads, key_value_dim or hidden_dim // num_heads)
        self.cache_shapes = [shape] * num_layers

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.token_embedding(hidden * self.logit_scale, reverse=True)

    def encode(self, token_ids: EncoderTokenIds, padding_mask: EncoderPaddingMask) -> torch.Tensor:
        x = self.encoder_embedding_dropout(self.token_embedding(token_ids))
        positions = torch.arange(x.shape[1], device=x.device)
        distance = (positions - positions[:, None])[None]
        bias = padding_bias(padding_mask)
        for layer in self.encoder_transformer_layers:
            x, bias = layer(x, bias, distance)
        return self.encoder_output_dropout(self.encoder_output_layer_norm(x))

    def forward(
        self,
        encoder_token_ids: EncoderTokenIds,
        decoder_token_ids: TokenIds,
        encoder_padding_mask: EncoderPaddingMask | None = None,
        decoder_padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> dict[str, torch.Tensor]:
        encoded = None  # where an earlier call has seen the encoder's inputs
        if encoder_token_ids is not None:
            if encoder_padding_mask is None:
                encoder_padding_mask = torch.ones_like(encoder_token_ids)
            encoded = self.encode(encoder_token_ids, encoder_padding_mask)
        step = Step(decoder_token_ids, decoder_padding_mask, cache, cache_update_index)
        encoded_mask = step.encoded_mask(encoded, encoder_padding_mask)
        assert encoded_mask is not None
        encoder_bias = padding_bias(encoded_mask)
        x = self.decoder_embedding_dropout(self.token_embedding(decoder_token_ids))
        distance = step.key_positions[:, None] - step.positions[:, :, None]
        bias = hiding_bias(step.full_mask())
        for i, layer in enumerate(self.decoder_transformer_layers):
            x, bias = layer(x, bias, distance, encoded, encoder_bias, step.past(i), step.cross(i))
        decoded = self.decoder_output_dropout(self.decoder_output_layer_norm(x))
        return encoder_decoder_outputs(encoded, decoded)
