"""EdRec: an encoder-decoder of sequences of items, without positions, for recommendation."""

from __future__ import annotations

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
from .layers.activations import Activation
from .layers.attention import CachedMultiHeadAttention, MultiHeadAttention
from .layers.cache import Crossing, CrossKeyValueShape, Past, Step, encoder_decoder_outputs
from .layers.core import Dense, Dropout, Embedding, UnitRMSNormalization
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.masks import CAUSAL, Mask, padding_mask_of
from .layers.transformer import head_dim


class EdRecRMSNormalization(UnitRMSNormalization):
    """`x / rms(x) · (1 + weight)`, at first twice the normed values."""

    layout = Layout()

    def __init__(self, dim: int, epsilon: float) -> None:
        super().__init__(dim, epsilon)
        nn.init.ones_(self.weight)


class EdRecGatedFeedForward(Layer):
    division = Division(("up_proj", "gate_proj"), ("down_proj",))

    def __init__(self, hidden_dim: int, intermediate_dim: int, dropout: float) -> None:
        super().__init__()
        self.up_proj = Dense(hidden_dim, intermediate_dim, use_bias=False)
        self.activation = Activation("gelu_approximate")
        self.gate_proj = Dense(hidden_dim, intermediate_dim, use_bias=False)
        self.down_proj = Dense(intermediate_dim, hidden_dim, use_bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.down_proj(self.activation(self.up_proj(x)) * self.gate_proj(x)))


class EdRecEncoderBlock(Layer):
    layout = Layout(built_on_call=True)

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        dropout: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        key_dim = head_dim(hidden_dim, num_heads)
        self.pre_attention_norm = EdRecRMSNormalization(hidden_dim, epsilon)
        self.attention = MultiHeadAttention(num_heads, hidden_dim, key_dim, use_bias=False)
        self.dropout1 = Dropout(dropout)
        self.pre_ffw_norm = EdRecRMSNormalization(hidden_dim, epsilon)
        self.mlp = EdRecGatedFeedForward(hidden_dim, intermediate_dim, dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        y = self.pre_attention_norm(x)
        x = x + self.dropout1(self.attention(y, y, mask))
        return x + self.mlp(self.pre_ffw_norm(x))


class EdRecDecoderBlock(Layer):
    layout = Layout(built_on_call=True)

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        dropout: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        attention = (num_heads, hidden_dim, head_dim(hidden_dim, num_heads), 0.0, False)
        self.pre_self_attn_norm = EdRecRMSNormalization(hidden_dim, epsilon)
        self.self_attention = CachedMultiHeadAttention(*attention)
        self.dropout1 = Dropout(dropout)
        self.pre_cross_attn_norm = EdRecRMSNormalization(hidden_dim, epsilon)
        self.cross_attention = CachedMultiHeadAttention(*attention)
        self.dropout2 = Dropout(dropout)
        self.pre_ffw_norm = EdRecRMSNormalization(hidden_dim, epsilon)
        self.mlp = EdRecGatedFeedForward(hidden_dim, intermediate_dim, dropout)

    def forward(
        self,
        x: torch.Tensor,
        encoded: torch.Tensor | None,
        mask: Mask = CAUSAL,
        encoded_mask: torch.Tensor | None = None,
        past: Past | None = None,
        crossing: Crossing | None = None,
    ) -> torch.Tensor:
        """`mask` includes the causal one."""
        y = self.pre_self_attn_norm(x)
        x = x + self.dropout1(self.self_attention(y, y, mask, past))
        y = self.pre_cross_attn_norm(x)
        x = x + self.dropout2(self.cross_attention(y, encoded, encoded_mask, crossing))
        return x + self.mlp(self.pre_ffw_norm(x))


class EdRecBackbone(Backbone):
    """Encoder-decoder without positions; both sides share the embedding.

    `encoder_token_ids`, `encoder_padding_mask` `[batch, encoder_length]`, `decoder_token_ids`,
    `decoder_padding_mask` `[batch, length]` → `encoder_sequence_output` and
    `decoder_sequence_output`, with `hidden_dim` as last axis.

    Args:
        vocab_size: number of token ids.
        num_layers_enc: number of the encoder's blocks.
        num_layers_dec: number of the decoder's blocks.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        num_heads: number of attention heads. Each has `hidden_dim // num_heads` dimensions.
        dropout: rate on the output of each sublayer.
        epsilon: of the norms.
        dtype, trainable, name: as in `Model`.
    """

    keras_module = "keras_hub.src.models.edrec.edrec_backbone"

    def __init__(
        self,
        vocab_size: int,
        num_layers_enc: int,
        num_layers_dec: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        epsilon: float = 1e-6,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        block = (hidden_dim, intermediate_dim, num_heads, dropout, epsilon)
        self.embedding = Embedding(vocab_size, hidden_dim)
        self.encoder_layers = Stack(
            "encoder_layer_{}", (EdRecEncoderBlock(*block) for _ in range(num_layers_enc))
        )
        self.decoder_layers = Stack(
            "decoder_layer_{}", (EdRecDecoderBlock(*block) for _ in range(num_layers_dec))
        )
        shape = CrossKeyValueShape(num_heads, head_dim(hidden_dim, num_heads))
        self.cache_shapes = [shape] * num_layers_dec

    @property
    def token_embedding(self) -> Embedding:
        return self.embedding

    def encode(
        self, token_ids: EncoderTokenIds, padding_mask: EncoderPaddingMask | None
    ) -> torch.Tensor:
        x = self.embedding(token_ids)
        mask = padding_mask_of(padding_mask)
        for layer in self.encoder_layers:
            x = layer(x, mask)
        return x

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
            encoded = self.encode(encoder_token_ids, encoder_padding_mask)
        step = Step(decoder_token_ids, decoder_padding_mask, cache, cache_update_index)
        encoded_mask = padding_mask_of(step.encoded_mask(encoded, encoder_padding_mask))
        x = self.embedding(decoder_token_ids)
        mask = step.mask()
        for i, layer in enumerate(self.decoder_layers):
            x = layer(x, encoded, mask, encoded_mask, step.past(i), step.cross(i))
        return encoder_decoder_outputs(encoded, x)
