"""Qwen1.5-MoE and Qwen2-MoE (arXiv:2407.10671)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.attention import ATTENTION
from .layers.cache import KeyValueShape, Step
from .layers.core import Dense, ReversibleEmbedding, RMSNormalization
from .layers.decoder import GatedExperts, GatedFeedForward, GroupedQueryAttention, SparseDecoder
from .layers.division import Division
from .layers.dtypes import DTypeLike
from .layers.initializers import random_normal
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.rotary import rotary_frequencies, rotary_tables
from .layers.routing import choose_experts
from .layers.transformer import head_dim


class QwenMoeLayerNorm(RMSNormalization):
    """The RMS norm under its Keras name."""


class QwenLayerNorm(RMSNormalization):
    """That of the end has another name."""


class QwenMoeAttention(GroupedQueryAttention):
    layout = replace(
        ATTENTION, attributes={**ATTENTION.attributes, "attention_output": "_output_dense"}
    )


class QwenMoeMLP(GatedFeedForward):
    """The feed-forward network under its Keras name."""


class QwenMoeExperts(GatedExperts):
    """The experts under their Keras name."""


class QwenSparseMoeBlock(Layer):
    """The networks of each token's `top_k` most probable experts, and one that all tokens share."""

    layout = Layout(
        attributes={
            "sparse_feedforward_gate_dense": "_sparse_feedforward_gate_dense",
            "experts": "expert_bank",
        },
        built_on_call=True,
    )
    division = Division(whole=("sparse_feedforward_gate_dense", "shared_expert_gate_dense"))

    def __init__(
        self,
        hidden_dim: int,
        moe_intermediate_dim: int,
        shared_expert_intermediate_dim: int,
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
        self.experts = QwenMoeExperts(num_experts, hidden_dim, moe_intermediate_dim)
        self.shared_expert_dense = QwenMoeMLP(hidden_dim, shared_expert_intermediate_dim, init)
        self.shared_expert_gate_dense = Dense(hidden_dim, 1, use_bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(0, 1)
        logits = self.sparse_feedforward_gate_dense(tokens)
        weights, experts = choose_experts(logits, self.top_k, self.normalize)
        shared = self.shared_expert_dense(x) * torch.sigmoid(self.shared_expert_gate_dense(x))
        return self.experts(tokens, experts, weights).view_as(x) + shared


class QwenMoeTransformerDecoder(SparseDecoder):
    """The block under its Keras name."""


class QwenMoeBackbone(Backbone):
    """Qwen's decoder with a mixture of experts for the feed-forward network.

    As in KerasHub all blocks are alike.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries. Each has `hidden_dim // num_query_heads`
            dimensions.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks of blocks without experts.
        moe_intermediate_dim: width inside an expert.
        shared_expert_intermediate_dim: width inside the expert that all tokens share.
        num_experts: experts of a block; with 0 none has any.
        top_k: experts of each token.
        norm_top_k_prob: whether the probabilities of a token's experts are made to sum to one.
        decoder_sparse_step: with another one than 1 no block has experts, as in KerasHub.
        rope_max_wavelength: base of the rotary frequencies.
        rope_scaling_factor: divides the positions.
        layer_norm_epsilon: of the norms.
        dropout: rate on the output of attention, before its projection and after.
        tie_word_embeddings: whether `token_embedding(x, reverse=True)` uses the embedding's own
            matrix, not a second one.
        use_sliding_window_attention: whether there is a window.
        sliding_window_size: keys that a query sees then, itself included.
        output_router_logits: has no effect, as in KerasHub.
        router_aux_loss_coefficient: has no effect here. It scales the loss that balances the
            experts, which KerasHub adds; in PyTorch that is the training loop's, see
            `load_balancing_loss` in `backbones.layers.routing`.
        mlp_only_layers: with 0 among them no block has experts; others have no effect, as in
            KerasHub.
        dtype, trainable, name: as in `Model`.
    """

    unsaved: ClassVar = {"router_aux_loss_coefficient": (0.001,)}

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        moe_intermediate_dim: int,
        shared_expert_intermediate_dim: int,
        num_experts: int,
        top_k: int = 4,
        norm_top_k_prob: bool = False,
        decoder_sparse_step: int = 1,
        rope_max_wavelength: float = 10000,
        rope_scaling_factor: float = 1.0,
        layer_norm_epsilon: float = 1e-6,
        dropout: float = 0,
        dtype: DTypeLike = None,
        tie_word_embeddings: bool = False,
        use_sliding_window_attention: bool = False,
        sliding_window_size: int = 32768,
        output_router_logits: bool = False,
        router_aux_loss_coefficient: float = 0.001,
        mlp_only_layers: Sequence[int] = (),
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.head_dim = head_dim(hidden_dim, num_query_heads)
        self.rope_max_wavelength = rope_max_wavelength
        self.rope_scaling_factor = rope_scaling_factor
        self.window = sliding_window_size if use_sliding_window_attention else None
        self.cache_shapes = [
            KeyValueShape(num_key_value_heads, self.head_dim, self.window)
        ] * num_layers
        sparse = num_experts > 0 and decoder_sparse_step == 1 and 0 not in mlp_only_layers

        def feed_forward() -> nn.Module:
            if not sparse:
                return QwenMoeMLP(hidden_dim, intermediate_dim)
            return QwenSparseMoeBlock(
                hidden_dim,
                moe_intermediate_dim,
                shared_expert_intermediate_dim,
                num_experts,
                top_k,
                norm_top_k_prob,
            )

        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, tie_word_embeddings, random_normal(0.01)
        )
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                QwenMoeTransformerDecoder(
                    QwenMoeAttention(
                        hidden_dim,
                        num_query_heads,
                        num_key_value_heads,
                        self.head_dim,
                        dropout,
                        use_bias=True,
                    ),
                    QwenMoeLayerNorm(hidden_dim, layer_norm_epsilon),
                    feed_forward(),
                    QwenMoeLayerNorm(hidden_dim, layer_norm_epsilon),
                    dropout,
                )
                for _ in range(num_layers)
            ),
        )
        self.sequence_output_layernorm = QwenLayerNorm(hidden_dim, layer_norm_epsilon)

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
            self.head_dim, self.rope_max_wavelength, x.device, self.rope_scaling_factor
        )
        tables = rotary_tables(step.positions, frequencies, x.dtype)
        mask = step.mask(self.window)
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, mask, tables, step.past(i))
        return self.sequence_output_layernorm(x)
