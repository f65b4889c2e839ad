"""SmolLM3 (huggingface.co/blog/smollm3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.attention import attend, merge_heads, split_heads
from .layers.cache import KeyValueShape, Past, Step
from .layers.core import Dense, EinsumDense, ReversibleEmbedding, RMSNormalization
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.masks import Mask
from .layers.rotary import rotary_frequencies, rotary_tables, rotate


def check_whole(head_dim: int, factor: float) -> None:
    """Refuse positions that do not turn whole heads.

    Raises:
        ValueError: a head of odd size, or a `factor` that leaves some of it out.
    """
    dim = int(head_dim * factor)
    if head_dim != (dim + 1) // 2 * 2:
        raise ValueError(
            f"Positions turn whole heads of even size, not {dim} of {head_dim} dimensions."
        )


def stored_frequencies(head_dim: int, theta: float, factor: float) -> torch.Tensor:
    """Angle per position for each pair, `[head_dim / 2]`, float32."""
    return rotary_frequencies(int(head_dim * factor), theta)


class SmolLM3RotaryEmbedding(Layer):
    """The frequencies, which are stored though not trained."""

    fixed_dtype = "float32"
    inv_freq: torch.Tensor

    def __init__(self, head_dim: int, theta: float, factor: float) -> None:
        super().__init__()
        self.register_buffer("inv_freq", stored_frequencies(head_dim, theta, factor))


class SmolLM3Attention(Layer):
    """Grouped-query attention, with rotary positions or without any."""

    layout = Layout(
        attributes={
            "rotary_emb": "rotary_embedding",
        },
    )
    division = Division(
        ("q_proj", "k_proj", "v_proj"),
        ("o_proj",),
        heads=("num_attention_heads", "num_key_value_heads"),
    )

    def __init__(
        self,
        hidden_dim: int,
        num_attention_heads: int,
        num_key_value_heads: int,
        attention_bias: bool,
        rope: bool,
        rope_theta: float,
        partial_rotary_factor: float,
    ) -> None:
        super().__init__()
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.rope = rope
        dim = hidden_dim // num_attention_heads
        query, key_value = num_attention_heads * dim, num_key_value_heads * dim
        self.q_proj = Dense(hidden_dim, query, use_bias=attention_bias)
        self.k_proj = Dense(hidden_dim, key_value, use_bias=attention_bias)
        self.v_proj = Dense(hidden_dim, key_value, use_bias=attention_bias)
        self.o_proj = EinsumDense("bquh,uhm->bqm", (num_attention_heads, dim), hidden_dim)
        if rope:
            check_whole(dim, partial_rotary_factor)
        self.rotary_emb = SmolLM3RotaryEmbedding(dim, rope_theta, partial_rotary_factor)

    def forward(
        self,
        x: torch.Tensor,
        mask: Mask,
        positions: torch.Tensor,
        past: Past | None,
    ) -> torch.Tensor:
        q = split_heads(self.q_proj(x), self.num_attention_heads)
        k = split_heads(self.k_proj(x), self.num_key_value_heads)
        v = split_heads(self.v_proj(x), self.num_key_value_heads)
        if self.rope:
            tables = rotary_tables(positions, self.rotary_emb.inv_freq.float(), q.dtype)
            q, k = rotate(q, tables), rotate(k, tables)
        if past is not None:
            k, v = past.extend(k, v)
        return self.o_proj(merge_heads(attend(q, k, v, mask)))


class SmolLM3MLP(Layer):
    """A gated feed-forward network."""

    division = Division(("gate_proj", "up_proj"), ("down_proj",))

    def __init__(self, hidden_dim: int, intermediate_dim: int, mlp_bias: bool) -> None:
        super().__init__()
        self.gate_proj = Dense(hidden_dim, intermediate_dim, use_bias=mlp_bias)
        self.up_proj = Dense(hidden_dim, intermediate_dim, use_bias=mlp_bias)
        self.down_proj = Dense(intermediate_dim, hidden_dim, use_bias=mlp_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class SmolLM3DecoderLayer(Layer):
    def __init__(
        self, attention: SmolLM3Attention, mlp: SmolLM3MLP, hidden_dim: int, epsilon: float
    ) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = mlp
        self.input_layernorm = RMSNormalization(hidden_dim, epsilon)
        self.post_attention_layernorm = RMSNormalization(hidden_dim, epsilon)

    def forward(
        self,
        x: torch.Tensor,
        mask: Mask,
        positions: torch.Tensor,
        past: Past | None,
    ) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), mask, positions, past)
        return x + self.mlp(self.post_attention_layernorm(x))


class SmolLM3Backbone(Backbone):
    """Llama's decoder with blocks that have no positions.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        num_layers: number of blocks.
        num_attention_heads: number of heads of the queries. Each has
            `hidden_dim // num_attention_heads` dimensions, an even number.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        attention_bias: whether the projections of queries, keys and values have biases.
        attention_dropout: has no effect, as in KerasHub.
        rope_layer_enabled_list: for each block whether it has rotary positions; those that are not
            listed have them.
        layer_types: has no effect, as in KerasHub.
        mlp_bias: whether the feed-forward networks have biases.
        layer_norm_epsilon: of the norms.
        max_position_embeddings: has no effect, as in KerasHub.
        rope_theta: base of the rotary frequencies.
        partial_rotary_factor: share of a head's dimensions that is rotated; it must be all of them.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: heads of odd size, or a `partial_rotary_factor` that leaves some of it out.
    """

    def __init__(
        self,
        vocabulary_size: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_layers: int,
        num_attention_heads: int,
        num_key_value_heads: int,
        attention_bias: bool,
        attention_dropout: float,
        rope_layer_enabled_list: Sequence[bool],
        layer_types: Sequence[str],
        mlp_bias: bool,
        layer_norm_epsilon: float,
        max_position_embeddings: int,
        rope_theta: float,
        partial_rotary_factor: float,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        head_dim = hidden_dim // num_attention_heads
        self.cache_shapes = [KeyValueShape(num_key_value_heads, head_dim)] * num_layers
        self.token_embedding = ReversibleEmbedding(vocabulary_size, hidden_dim)
        rope = [*rope_layer_enabled_list, *[True] * num_layers]
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                SmolLM3DecoderLayer(
                    SmolLM3Attention(
                        hidden_dim,
                        num_attention_heads,
                        num_key_value_heads,
                        attention_bias,
                        bool(rope[i]),
                        rope_theta,
                        partial_rotary_factor,
                    ),
                    SmolLM3MLP(hidden_dim, intermediate_dim, mlp_bias),
                    hidden_dim,
                    layer_norm_epsilon,
                )
                for i in range(num_layers)
            ),
        )
        self.sequence_output_layernorm = RMSNormalization(hidden_dim, layer_norm_epsilon)

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        x = self.token_embedding(token_ids)
        step = Step(x, padding_mask, cache, cache_update_index)
        mask = step.mask()
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, mask, step.positions, step.past(i))
        return self.sequence_output_layernorm(x)


SmolLMBackbone = SmolLM3Backbone
