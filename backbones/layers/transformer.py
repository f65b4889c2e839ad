"""The Transformer's encoder and decoder block (Vaswani et al., 2017)."""

from __future__ import annotations

from dataclasses import replace

import torch

from .activations import Activation, ActivationLike
from .attention import CachedMultiHeadAttention, MultiHeadAttention
from .cache import Crossing, Past
from .core import Dense, Dropout, LayerNormalization
from .division import Division
from .initializers import Initializer, glorot_uniform, zeros
from .layer import Layer
from .layout import Layout
from .masks import CAUSAL, Mask

_CHILDREN = (
    "self_attention_layer_norm",
    "feedforward_layer_norm",
    "feedforward_intermediate_dense",
    "feedforward_output_dense",
)


class FeedForward(Layer):
    """The half of a block after its attention, shared by encoder and decoder."""

    division = Division(("feedforward_intermediate_dense",), ("feedforward_output_dense",))

    normalize_first: bool
    feedforward_layer_norm: LayerNormalization
    feedforward_intermediate_dense: Dense
    feedforward_activation: Activation
    feedforward_output_dense: Dense
    feedforward_dropout: Dropout

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = x
        if self.normalize_first:
            x = self.feedforward_layer_norm(x)
        x = self.feedforward_activation(self.feedforward_intermediate_dense(x))
        x = self.feedforward_output_dense(x)
        x = self.feedforward_dropout(x) + residual
        return x if self.normalize_first else self.feedforward_layer_norm(x)


class TransformerEncoder(FeedForward):
    layout = Layout(
        attributes={
            "self_attention_layer": "_self_attention_layer",
            **{name: f"_{name}" for name in _CHILDREN},
        },
        built_on_call=True,
    )

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        activation: ActivationLike = "relu",
        layer_norm_epsilon: float = 1e-5,
        kernel_initializer: Initializer = glorot_uniform,
        bias_initializer: Initializer = zeros,
        normalize_first: bool = False,
    ) -> None:
        super().__init__()
        self.normalize_first = normalize_first
        initializers = (kernel_initializer, bias_initializer)
        self.self_attention_layer = MultiHeadAttention(
            num_heads, hidden_dim, head_dim(hidden_dim, num_heads), dropout, True, *initializers
        )
        self.self_attention_layer_norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.self_attention_dropout = Dropout(dropout)
        self.feedforward_layer_norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.feedforward_intermediate_dense = Dense(
            hidden_dim, intermediate_dim, True, *initializers
        )
        self.feedforward_activation = Activation(activation)
        self.feedforward_output_dense = Dense(intermediate_dim, hidden_dim, True, *initializers)
        self.feedforward_dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        residual = x
        if self.normalize_first:
            x = self.self_attention_layer_norm(x)
        x = self.self_attention_layer(x, x, mask)
        x = self.self_attention_dropout(x) + residual
        if not self.normalize_first:
            x = self.self_attention_layer_norm(x)
        return self.feed_forward(x)


class TransformerDecoder(FeedForward):
    """A decoder block without cross-attention."""

    layout = Layout(
        attributes={
            "self_attention": "_self_attention_layer",
            **{name: f"_{name}" for name in _CHILDREN},
        },
        built_on_call=True,
    )

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        activation: ActivationLike = "relu",
        layer_norm_epsilon: float = 1e-5,
        kernel_initializer: Initializer = glorot_uniform,
        bias_initializer: Initializer = zeros,
        normalize_first: bool = False,
    ) -> None:
        super().__init__()
        self.normalize_first = normalize_first
        initializers = (kernel_initializer, bias_initializer)
        self.self_attention = CachedMultiHeadAttention(
            num_heads, hidden_dim, head_dim(hidden_dim, num_heads), dropout, True, *initializers
        )
        self.self_attention_layer_norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.self_attention_dropout = Dropout(dropout)
        self.feedforward_intermediate_dense = Dense(
            hidden_dim, intermediate_dim, True, *initializers
        )
        self.feedforward_activation = Activation(activation)
        self.feedforward_output_dense = Dense(intermediate_dim, hidden_dim, True, *initializers)
        self.feedforward_layer_norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.feedforward_dropout = Dropout(dropout)

    def self_attend(self, x: torch.Tensor, mask: Mask, past: Past | None) -> torch.Tensor:
        residual = x
        if self.normalize_first:
            x = self.self_attention_layer_norm(x)
        x = self.self_attention(x, x, mask, past=past)
        x = self.self_attention_dropout(x) + residual
        return x if self.normalize_first else self.self_attention_layer_norm(x)

    def forward(
        self, x: torch.Tensor, mask: Mask = CAUSAL, past: Past | None = None
    ) -> torch.Tensor:
        """`mask` includes the causal one."""
        return self.feed_forward(self.self_attend(x, mask, past))


class TransformerCrossDecoder(TransformerDecoder):
    """A decoder block that also attends to an encoder's output."""

    layout = replace(
        TransformerDecoder.layout,
        class_name="TransformerDecoder",
        attributes={
            **TransformerDecoder.layout.attributes,
            "cross_attention": "_cross_attention_layer",
            "cross_attention_layer_norm": "_cross_attention_layer_norm",
        },
        order=(
            "self_attention",
            "self_attention_layer_norm",
            "cross_attention",
            "cross_attention_layer_norm",
        ),
    )

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        activation: ActivationLike = "relu",
        layer_norm_epsilon: float = 1e-5,
        kernel_initializer: Initializer = glorot_uniform,
        bias_initializer: Initializer = zeros,
        normalize_first: bool = False,
    ) -> None:
        initializers = (kernel_initializer, bias_initializer)
        super().__init__(
            hidden_dim,
            intermediate_dim,
            num_heads,
            dropout,
            activation,
            layer_norm_epsilon,
            *initializers,
            normalize_first,
        )
        self.cross_attention = CachedMultiHeadAttention(
            num_heads, hidden_dim, head_dim(hidden_dim, num_heads), dropout, True, *initializers
        )
        self.cross_attention_layer_norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.cross_attention_dropout = Dropout(dropout)

    def forward(  # type: ignore[override]
        self,
        x: torch.Tensor,
        encoded: torch.Tensor | None,
        mask: Mask = CAUSAL,
        encoded_mask: torch.Tensor | None = None,
        past: Past | None = None,
        crossing: Crossing | None = None,
    ) -> torch.Tensor:
        """`encoded_mask` is that of `encoded`, the encoder's output
        `[batch, encoder_length, dim]`, which may be `None` if `crossing` has its keys; `mask`
        includes the causal one.
        """
        x = residual = self.self_attend(x, mask, past)
        if self.normalize_first:
            x = self.cross_attention_layer_norm(x)
        x = self.cross_attention(x, encoded, encoded_mask, crossing)
        x = self.cross_attention_dropout(x) + residual
        if not self.normalize_first:
            x = self.cross_attention_layer_norm(x)
        return self.feed_forward(x)


def head_dim(hidden_dim: int, num_heads: int) -> int:
    """Size of one head.

    Raises:
        ValueError: there are more heads than dimensions.
    """
    if hidden_dim < num_heads:
        raise ValueError(f"hidden_dim={hidden_dim} is smaller than num_heads={num_heads}.")
    return hidden_dim // num_heads
