"""GPT-NeoX (arXiv:2204.06745)."""

from __future__ import annotations

import torch

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.activations import Activation
from .layers.attention import attend, merge_heads, split_heads
from .layers.cache import KeyValueShape, Past, Step
from .layers.core import Dense, Dropout, EinsumDense, LayerNormalization, ReversibleEmbedding
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.masks import Mask
from .layers.rotary import Tables, rotary_frequencies, rotary_part, rotary_tables, rotate_part
from .layers.transformer import head_dim


class GPTNeoXAttention(Layer):
    """Attention whose heads turn only their first dimensions by the position."""

    layout = Layout(
        attributes={
            "query_key_value": "_qkv_dense",
            "attention_output": "_output_dense",
        },
        built_on_call=True,
    )

    division = Division(("query_key_value",), ("attention_output",), heads=("num_heads",))

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        heads = (num_heads, 3 * head_dim(hidden_dim, num_heads))
        init = random_normal(0.02)
        self.query_key_value = EinsumDense(
            "abc,cde->abde", hidden_dim, heads, use_bias=True, kernel_initializer=init
        )
        self.attention_dropout = Dropout(dropout)
        self.attention_output = EinsumDense(
            "abc,cd->abd", hidden_dim, hidden_dim, use_bias=True, kernel_initializer=init
        )

    def forward(
        self,
        x: torch.Tensor,
        mask: Mask,
        tables: Tables,
        past: Past | None,
    ) -> torch.Tensor:
        # Each head's query, key and value lie side by side.
        q, k, v = split_heads(self.query_key_value(x), self.num_heads).chunk(3, dim=-1)
        q, k = rotate_part(q, tables), rotate_part(k, tables)
        if past is not None:
            k, v = past.extend(k, v)
        dropout = self.attention_dropout.p if self.training else 0.0
        x = attend(q, k, v, mask, dropout=dropout)
        return self.attention_output(merge_heads(x))


class GPTNeoXDecoder(Layer):
    """A block whose attention and feed-forward stand side by side."""

    layout = Layout(
        attributes={
            "self_attention": "_self_attention_layer",
            "self_attention_layer_norm": "_self_attention_layer_norm",
            "feedforward_intermediate_dense": "_feedforward_intermediate_dense",
            "feedforward_output_dense": "_feedforward_output_dense",
            "feedforward_layer_norm": "_feedforward_layer_norm",
        },
        built_on_call=True,
    )
    division = Division(("feedforward_intermediate_dense",), ("feedforward_output_dense",))

    def __init__(
        self,
        hidden_dim: int,
        intermediate_dim: int,
        num_heads: int,
        dropout: float,
        layer_norm_epsilon: float,
    ) -> None:
        super().__init__()
        init = random_normal(0.02)
        self.self_attention = GPTNeoXAttention(hidden_dim, num_heads, dropout)
        self.self_attention_layer_norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        self.self_attention_dropout = Dropout(dropout)
        self.feedforward_intermediate_dense = Dense(
            hidden_dim, intermediate_dim, kernel_initializer=init
        )
        self.feedforward_activation = Activation("gelu_approximate")
        self.feedforward_output_dense = Dense(intermediate_dim, hidden_dim, kernel_initializer=init)
        self.feedforward_layer_norm = LayerNormalization(hidden_dim, layer_norm_epsilon)
        # KerasHub makes this layer but never calls it.
        self.feedforward_dropout = Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        mask: Mask,
        tables: Tables,
        past: Past | None,
    ) -> torch.Tensor:
        attention = self.self_attention(self.self_attention_layer_norm(x), mask, tables, past)
        attention = self.self_attention_dropout(attention)
        feedforward = self.feedforward_intermediate_dense(self.feedforward_layer_norm(x))
        feedforward = self.feedforward_activation(feedforward)
        return self.feedforward_output_dense(feedforward) + attention + x


class GPTNeoXBackbone(Backbone):
    """Decoder with partly rotary positions and parallel sublayers.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: number of attention heads, a divisor of `hidden_dim`.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        dropout: rate on the embeddings, the attention weights and the output of attention.
        rotary_percentage: share of a head's dimensions that is rotated, 0 to 1.
        rotary_max_wavelength: base of the rotary frequencies.
        layer_norm_epsilon: of the norms.
        max_sequence_length: has no effect, as in KerasHub.
        dtype, trainable, name: as in `Model`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float = 0.0,
        rotary_percentage: float = 0.25,
        rotary_max_wavelength: float = 10000,
        layer_norm_epsilon: float = 1e-5,
        max_sequence_length: int = 512,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.rotary_dim = rotary_part(head_dim(hidden_dim, num_heads), rotary_percentage)
        self.rotary_max_wavelength = rotary_max_wavelength
        self.cache_shapes = [KeyValueShape(num_heads, head_dim(hidden_dim, num_heads))] * num_layers
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, embeddings_initializer=random_normal(0.01)
        )
        self.embeddings_dropout = Dropout(dropout)
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                GPTNeoXDecoder(
                    hidden_dim,
                    intermediate_dim,
                    num_heads,
                    dropout,
                    layer_norm_epsilon,
                )
                for _ in range(num_layers)
            ),
        )
        self.layer_norm = LayerNormalization(hidden_dim, layer_norm_epsilon)

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        x = self.embeddings_dropout(self.token_embedding(token_ids))
        step = Step(x, padding_mask, cache, cache_update_index)
        frequencies = rotary_frequencies(self.rotary_dim, self.rotary_max_wavelength, x.device)
        tables = rotary_tables(step.positions, frequencies, x.dtype)
        mask = step.mask()
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, mask, tables, step.past(i))
        return self.layer_norm(x)
