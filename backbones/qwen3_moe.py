"""Qwen3-MoE (arXiv:2505.09388)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.cache import KeyValueShape, Step
from .layers.core import Dense, ReversibleEmbedding, RMSNormalization
from .layers.decoder import GatedExperts, GatedFeedForward, NormedQueryAttention, SparseDecoder
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.rotary import rotary_frequencies, rotary_tables
from .layers.routing import choose_experts
from .layers.transformer import head_dim as default_head_dim


class Qwen3MoeLayerNorm(RMSNormalization):
    """The RMS norm under its Keras name."""


class Qwen3MoeAttention(NormedQueryAttention):
    """The attention under its Keras name."""


class Qwen3MoeMLP(GatedFeedForward):
    """The feed-forward network under its Keras name."""


class Qwen3MoeExperts(GatedExperts):
    """The experts under their Keras name."""


class Qwen3SparseMoeBlock(Layer):
    """The feed-forward network of each token's `top_k` most probable experts."""

    layout = Layout(
        attributes={
            "sparse_feedforward_gate_dense": "_sparse_feedforward_gate_dense",
            "experts": "expert_bank",
        },
        built_on_call=True,
    )
    division = Division(whole=("sparse_feedforward_gate_dense",))

    def __init__(
        self,
        hidden_dim: int,
        moe_intermediate_dim: int,
        num_experts: int,
        top_k: int,
        norm_top_k_prob: bool,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.normalize = norm_top_k_prob
        init = random_normal(0.02)
        self.sparse_feedforward_gate_dense = Dense(
            hidden_dim, num_experts, use_bias=False, kernel_initializer=init
        )
        self.experts = Qwen3MoeExperts(num_experts, hidden_dim, moe_intermediate_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(0, 1)
        logits = self.sparse_feedforward_gate_dense(tokens)
        weights, experts = choose_experts(logits, self.top_k, self.normalize)
        return self.experts(tokens, experts, weights).view_as(x)


class Qwen3MoeTransformerDecoder(SparseDecoder):
    """The block under its Keras name."""


class Qwen3MoeBackbone(Backbone):
    """Qwen3's decoder with a mixture of experts for the feed-forward network.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks of blocks without experts.
        moe_intermediate_dim: width inside an expert.
        num_experts: experts of a block; with 0 none has any.
        head_dim: dimensions of a head; `None` for `hidden_dim // num_query_heads`.
        top_k: experts of each token.
        norm_top_k_prob: whether the probabilities of a token's experts are made to sum to one.
        decoder_sparse_step: every so many-th block has experts.
        rope_max_wavelength: base of the rotary frequencies.
        rope_scaling_factor: divides the positions.
        layer_norm_epsilon: of the norms but those on queries and keys, which have 1e-6, as in
            KerasHub.
        dropout: rate on the output of attention, before its projection and after.
        tie_word_embeddings: whether `token_embedding(x, reverse=True)` uses the embedding's own
            matrix, not a second one.
        sliding_window_size: keys that a query sees, itself included; `None` for all before it.
            KerasHub's torch backend drops the window, its other backends apply it.
        router_aux_loss_coefficient: has no effect here. It scales the loss that balances the
            experts, which KerasHub adds; in PyTorch that is the training loop's, see
            `load_balancing_loss` in `backbones.layers.routing`.
        mlp_only_layers: blocks that have none nevertheless, counted from 0.
        dtype, trainable, name: as in `Model`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        moe_intermediate_dim: int,
        num_experts: int,
        head_dim: int | None = None,
        top_k: int = 4,
        norm_top_k_prob: bool = False,
        decoder_sparse_step: int = 1,
        rope_max_wavelength: float = 10000,
        rope_scaling_factor: float = 1.0,
        layer_norm_epsilon: float = 1e-6,
        dropout: float = 0,
        dtype: DTypeLike = None,
        tie_word_embeddings: bool = False,
        sliding_window_size: int | None = 32768,
        router_aux_loss_coefficient: float = 0.001,
        mlp_only_layers: Sequence[int] = (),
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.head_size = head_dim or default_head_dim(hidden_dim, num_query_heads)
        self.rope_max_wavelength = rope_max_wavelength
        self.rope_scaling_factor = rope_scaling_factor
        self.window = sliding_window_size or None
        self.cache_shapes = [
            KeyValueShape(num_key_value_heads, self.head_size, self.window)
        ] * num_layers

        def feed_forward(layer: int) -> nn.Module:
            dense = num_experts == 0 or layer in (mlp_only_layers or ())
            if dense or (layer + 1) % decoder_sparse_step:
                return Qwen3MoeMLP(hidden_dim, intermediate_dim)
            return Qwen3SparseMoeBlock(
                hidden_dim, moe_intermediate_dim, num_experts, top_k, norm_top_k_prob
            )

        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, tie_word_embeddings, random_normal(0.01)
        )
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                Qwen3MoeTransformerDecoder(
                    Qwen3MoeAttention(
                        hidden_dim,
                        num_query_heads,
                        num_key_value_heads,
                        self.head_size,
                        dropout,
                        Qwen3MoeLayerNorm(self.head_size, 1e-6),
                        Qwen3MoeLayerNorm(self.head_size, 1e-6),
                    ),
                    Qwen3MoeLayerNorm(hidden_dim, layer_norm_epsilon),
                    feed_forward(i),
                    Qwen3MoeLayerNorm(hidden_dim, layer_norm_epsilon),
                    dropout,
                )
                for i in range(num_layers)
            ),
        )
        self.sequence_output_layernorm = Qwen3MoeLayerNorm(hidden_dim, layer_norm_epsilon)

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        x = self.token_embedding(token_ids)
        step = Step(x, padding_mask, cache, cache_update_index)
        frequencies = rotary_frequencies(
            self.head_size, self.rope_max_wavelength, x.device, self.rope_scaling_factor
        )
        tables = rotary_tables(step.positions, frequencies, x.dtype)
        mask = step.mask(self.window)
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, mask, tables, step.past(i))
        return self.sequence_output_layernorm(x)
