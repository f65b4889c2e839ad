"""XLNet (Yang et al., 2019, arXiv:1906.08237)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import PaddingMask, TokenIds
from .layers.activations import Activation, ActivationLike
from .layers.attention import ATTENTION, DIVISION, attend, merge_heads, split_heads
from .layers.core import Dense, Dropout, EinsumDense, Embedding, LayerNormalization
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.initializers import (
    Initializer,
    glorot_uniform,
    ones,
    random_normal,
    truncated_normal,
    uniform,
    zeros,
)
from .layers.layer import Layer
from .layers.layout import Kind, Layout, Stack
from .layers.rotary import rotary_frequencies

BIAS_INITIALIZERS: dict[str, Initializer] = {
    "zeros": zeros,
    "ones": ones,
    "glorot_uniform": glorot_uniform,
    "random_normal": random_normal(0.05),
    "random_uniform": uniform,
    "truncated_normal": truncated_normal(0.05),
}


class ContentAndQueryEmbedding(Layer):
    layout = Layout(
        attributes={"word_embedding": "word_embed"},
        built_on_call=True,
    )
    division = Division(tables=("word_embedding",))

    def __init__(self, vocabulary_size: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.word_embedding = Embedding(vocabulary_size, hidden_dim)
        self.dropout_layer = Dropout(dropout)

    def forward(self, token_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of the tokens, and sinusoids `[2 · length, dim]` of the distances from query to
        key, from `length` down to `1 - length`.
        """
        x = self.dropout_layer(self.word_embedding(token_ids))
        length = x.shape[1]
        distances = torch.arange(length, -length, -1, device=x.device).float()
        angles = torch.outer(distances, rotary_frequencies(self.hidden_dim, 1e4, x.device))
        sinusoids = torch.cat((angles.sin(), angles.cos()), dim=-1).to(x.dtype)
        return x, self.dropout_layer(sinusoids)


class XLNetAttentionMaskLayer(Layer):
    """Who sees whom; `mask_emb` belongs to the query stream, which has no use here."""

    def __init__(self, hidden_dim: int, initializer: Initializer) -> None:
        super().__init__()
        self.mask_emb = nn.Parameter(torch.empty(1, 1, hidden_dim))
        initializer(self.mask_emb, hidden_dim, hidden_dim)

    def forward(self, padding_mask: torch.Tensor) -> torch.Tensor:
        """`[batch, length]` → `[batch, 1, length, length]`: itself and what is not padding."""
        batch, length = padding_mask.shape
        # Here and in the positions KerasHub reshapes where XLNet transposes, so that the rows of a
        # batch mix. Its presets compute that, and so do we; a batch of one is right.
        visible = padding_mask.bool().reshape(length, batch).T
        itself = torch.eye(length, dtype=torch.bool, device=padding_mask.device)
        return visible[:, None, None, :] | itself


def relative_shift(x: torch.Tensor) -> torch.Tensor:
    """`[..., length, 2 · length]` → `[..., length, length]`: row i starts at column length - i."""
    length = x.shape[-2]
    return x.flatten(-2)[..., length:].unflatten(-1, (length, -1))[..., :length]


class TwoStreamRelativeAttention(Layer):
    """Transformer-XL's attention over the content stream."""

    layout = replace(ATTENTION, attributes={**ATTENTION.attributes, "encoding": "_encoding_dense"})
    division = replace(DIVISION, columns=(*DIVISION.columns, "encoding"), heads=("num_heads",))

    def __init__(self, hidden_dim: int, num_heads: int, initializer: Initializer) -> None:
        super().__init__()
        self.num_heads = num_heads
        heads = (num_heads, hidden_dim // num_heads)

        def project() -> EinsumDense:
            return EinsumDense("abc,cde->abde", hidden_dim, heads, kernel_initializer=initializer)

        self.query = project()
        self.key = project()
        self.value = project()
        self.attention_output = EinsumDense(
            "ibnd,hnd->ibh", heads, hidden_dim, kernel_initializer=initializer
        )
        self.encoding = project()

    def forward(
        self,
        x: torch.Tensor,
        sinusoids: torch.Tensor,
        other_segment: torch.Tensor,
        mask: torch.Tensor | None,
        content_bias: torch.Tensor,
        position_bias: torch.Tensor,
        segment_bias: torch.Tensor,
        segment_encoding: torch.Tensor,
    ) -> torch.Tensor:
        q = split_heads(self.query(x), self.num_heads)
        k = split_heads(self.key(x), self.num_heads)
        v = split_heads(self.value(x), self.num_heads)
        scale = q.shape[-1] ** -0.5
        batch, count = x.shape[0], sinusoids.shape[0]
        # See XLNetAttentionMaskLayer.
        positions = self.encoding(sinusoids).repeat_interleave(batch, 0)
        positions = split_heads(positions.unflatten(0, (batch, count)), self.num_heads)
        by_position = relative_shift((q + position_bias) @ positions.mT)
        by_segment = (q + segment_bias) @ segment_encoding
        by_segment = torch.where(other_segment, by_segment[..., 1:], by_segment[..., :1])
        bias = (by_position + by_segment) * scale
        if mask is not None:
            bias = bias.masked_fill(~mask, -torch.inf)
        x = attend(q + content_bias, k, v, bias, scale=scale)
        return self.attention_output(merge_heads(x))


class XLNetEncoder(Layer):
    layout = Layout(
        attributes={"rel_attn": "relative_attention", "layer_norm_rel_attn": "layer_norm"},
        built_on_call=True,
    )
    division = Division(
        ("feedforward_intermediate_dense",),
        ("feedforward_output_dense",),
        weights={
            "content_attention_bias": 0,
            "positional_attention_bias": 0,
            "segment_attention_bias": 0,
            "segment_encoding": 1,
        },
    )

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        dropout: float,
        activation: ActivationLike,
        initializer: Initializer,
        bias_initializer: Initializer,
    ) -> None:
        super().__init__()
        if hidden_dim % 2:
            raise ValueError(f"hidden_dim={hidden_dim} must be even, for sines and cosines.")
        head_dim = hidden_dim // num_heads
        self.rel_attn = TwoStreamRelativeAttention(hidden_dim, num_heads, initializer)
        self.layer_norm_rel_attn = LayerNormalization(hidden_dim, 1e-12)
        self.dropout_attn = Dropout(dropout)
        self.layer_norm_ff = LayerNormalization(hidden_dim, 1e-12)
        self.feedforward_intermediate_dense = Dense(
            hidden_dim, intermediate_dim, kernel_initializer=initializer
        )
        self.feedforward_activation = Activation(activation)
        self.feedforward_output_dense = Dense(
            intermediate_dim, hidden_dim, kernel_initializer=initializer
        )
        self.dropout_ff = Dropout(dropout)

        def bias() -> nn.Parameter:
            weight = nn.Parameter(torch.empty(num_heads, head_dim))
            bias_initializer(weight, num_heads, head_dim)
            return weight

        self.content_attention_bias = bias()
        self.positional_attention_bias = bias()
        self.segment_attention_bias = bias()
        self.segment_encoding = nn.Parameter(torch.empty(2, num_heads, head_dim))
        initializer(self.segment_encoding, 2 * num_heads, 2 * head_dim)

    def forward(
        self,
        x: torch.Tensor,
        sinusoids: torch.Tensor,
        other_segment: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        y = self.rel_attn(
            x,
            sinusoids,
            other_segment,
            mask,
            self.content_attention_bias[:, None].to(x.dtype),
            self.positional_attention_bias[:, None].to(x.dtype),
            self.segment_attention_bias[:, None].to(x.dtype),
            self.segment_encoding.permute(1, 2, 0).to(x.dtype),
        )
        x = self.layer_norm_rel_attn(x + self.dropout_attn(y))
        y = self.feedforward_activation(self.feedforward_intermediate_dense(x))
        y = self.dropout_ff(y)
        y = self.dropout_ff(self.feedforward_output_dense(y))
        return self.layer_norm_ff(x + y)


class XLNetBackbone(Backbone):
    """Bidirectional encoder with relative positions. (The query stream of XLNet's pretraining is
    left out.)

    As in KerasHub the result for a row depends on the rest of its batch.

    `token_ids`, `padding_mask` and `segment_ids` `[batch, length]` →
    `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: number of attention heads. Each has `hidden_dim // num_heads` dimensions.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        dropout: rate on the embeddings, within the feed-forward networks, on the output of each
            sublayer and of the model.
        activation: of the feed-forward networks, by its Keras name.
        kernel_initializer_range: standard deviation of the initial matrices.
        bias_initializer: of the attention's biases, a name of Keras's.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: unknown `bias_initializer`; an odd `hidden_dim`.
    """

    layout = Layout(
        Kind.GRAPH,
        names={"output_dropout": "dropout"},
        assigned=(
            "content_query_embedding",
            "encoder_block_attn_mask_layer",
            "transformer_layers",
        ),
    )

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float = 0.0,
        activation: ActivationLike = "gelu",
        kernel_initializer_range: float = 0.02,
        bias_initializer: str = "zeros",
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if bias_initializer not in BIAS_INITIALIZERS:
            raise ValueError(
                f"Unknown bias_initializer {bias_initializer!r}. "
                f"Known: {', '.join(BIAS_INITIALIZERS)}."
            )
        init = truncated_normal(kernel_initializer_range)
        self.encoder_block_attn_mask_layer = XLNetAttentionMaskLayer(hidden_dim, init)
        self.content_query_embedding = ContentAndQueryEmbedding(
            vocabulary_size, hidden_dim, dropout
        )
        self.transformer_layers = Stack(
            "xlnet_encoder_{}",
            (
                XLNetEncoder(
                    hidden_dim,
                    intermediate_dim,
                    num_heads,
                    dropout,
                    activation,
                    init,
                    BIAS_INITIALIZERS[bias_initializer],
                )
                for _ in range(num_layers)
            ),
        )
        self.output_dropout = Dropout(dropout)

    @property
    def token_embedding(self) -> Embedding:
        return self.content_query_embedding.word_embedding

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        segment_ids: TokenIds | None = None,
    ) -> torch.Tensor:
        if segment_ids is None:
            segment_ids = torch.zeros_like(token_ids)
        x, sinusoids = self.content_query_embedding(token_ids)
        mask = None if padding_mask is None else self.encoder_block_attn_mask_layer(padding_mask)
        other_segment = (segment_ids[:, :, None] != segment_ids[:, None, :])[:, None]
        for layer in self.transformer_layers:
            x = layer(x, sinusoids, other_segment, mask)
        return self.output_dropout(x)
