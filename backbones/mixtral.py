"""Mixtral (arXiv:2401.04088)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch.nn import functional as F

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, PaddingMask, TokenIds
from .layers.attention import ATTENTION
from .layers.cache import KeyValueShape, Step
from .layers.core import Dense, ReversibleEmbedding, RMSNormalization
from .layers.decoder import GroupedQueryAttention, SparseDecoder
from .layers.division import Division, Experts
from .layers.dtypes import DTypeLike
from .layers.initializers import glorot_uniform, random_normal
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.rotary import rotary_frequencies, rotary_tables
from .layers.routing import ExpertBank, choose_experts, expert_weights, jitter
from .layers.transformer import head_dim


class MixtralLayerNormalization(RMSNormalization):
    """The RMS norm under its Keras name."""


class CachedMixtralAttention(GroupedQueryAttention):
    layout = ATTENTION


class MixtralMoeExperts(ExpertBank):
    """Gated feed-forward networks; matrices are `[experts, in, out]`."""

    division = Experts(weights={"gate": 0, "intermediate": 0, "output": 0})

    def __init__(self, num_experts: int, hidden_dim: int, intermediate_dim: int) -> None:
        super().__init__()
        inwards = (num_experts, hidden_dim, intermediate_dim)
        self.gate = expert_weights(inwards, glorot_uniform)
        self.intermediate = expert_weights(inwards, glorot_uniform)
        self.output = expert_weights((num_experts, intermediate_dim, hidden_dim), glorot_uniform)

    def forward(
        self, x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """`x` `[tokens, dim]`; `experts` and `weights` of each token `[tokens, top_k]`."""
        routes = self.routes(experts, self.gate.shape[0])
        x = routes.rows(x)
        x = routes.product(x, self.intermediate) * F.silu(routes.product(x, self.gate))
        return routes.tokens(routes.product(x, self.output), weights)


class MixtralSparseMoeBlock(Layer):
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
        intermediate_dim: int,
        num_experts: int,
        top_k: int,
        router_jitter_noise: float,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.jitter = router_jitter_noise
        self.sparse_feedforward_gate_dense = Dense(hidden_dim, num_experts, use_bias=False)
        self.experts = MixtralMoeExperts(num_experts, hidden_dim, intermediate_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = jitter(x.flatten(0, 1), self.jitter, self.training)
        logits = self.sparse_feedforward_gate_dense(tokens)
        weights, experts = choose_experts(logits, self.top_k, normalize=True)
        return self.experts(tokens, experts, weights).view_as(x)


class MixtralTransformerDecoder(SparseDecoder):
    layout = replace(
        SparseDecoder.layout,
        attributes={**SparseDecoder.layout.attributes, "mlp": "_sparse_moe_block"},
    )


class MixtralBackbone(Backbone):
    """Mistral's decoder with a mixture of experts for the feed-forward network.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries. Each has `hidden_dim // num_query_heads`
            dimensions.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside an expert.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        num_experts: experts of a block.
        top_k: experts of each token.
        router_jitter_noise: in training tokens are multiplied with up to 1 ± this before the
            experts.
        rope_max_wavelength: base of the rotary frequencies.
        rope_scaling_factor: divides the positions.
        layer_norm_epsilon: of the norms.
        router_aux_loss_coef: has no effect here. It scales the loss that balances the experts,
            which KerasHub adds; in PyTorch that is the training loop's, see `load_balancing_loss`
            in `backbones.layers.routing`.
        sliding_window: keys that a query sees, itself included; `None` for all before it.
        dropout: rate on the output of attention, before its projection and after.
        output_router_logits: has no effect, as in KerasHub.
        dtype, trainable, name: as in `Model`.
    """

    unsaved: ClassVar = {"output_router_logits": (False, True)}

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_query_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_key_value_heads: int,
        num_experts: int,
        top_k: int = 2,
        router_jitter_noise: float = 0.0,
        rope_max_wavelength: float = 10000,
        rope_scaling_factor: float = 1.0,
        layer_norm_epsilon: float = 1e-6,
        router_aux_loss_coef: float = 0.02,
        sliding_window: int | None = 512,
        dropout: float = 0,
        dtype: DTypeLike = None,
        output_router_logits: bool = False,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.head_dim = head_dim(hidden_dim, num_query_heads)
        self.rope_max_wavelength = rope_max_wavelength
        self.rope_scaling_factor = rope_scaling_factor
        self.window = sliding_window
        self.cache_shapes = [
            KeyValueShape(num_key_value_heads, self.head_dim, self.window)
        ] * num_layers
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, False, random_normal(0.01)
        )
        self.transformer_layers = Stack(
            "transformer_layer_{}",
            (
                MixtralTransformerDecoder(
                    CachedMixtralAttention(
                        hidden_dim, num_query_heads, num_key_value_heads, self.head_dim, dropout
                    ),
                    MixtralLayerNormalization(hidden_dim, layer_norm_epsilon),
                    MixtralSparseMoeBlock(
                        hidden_dim, intermediate_dim, num_experts, top_k, router_jitter_noise
                    ),
                    MixtralLayerNormalization(hidden_dim, layer_norm_epsilon),
                    dropout,
                )
                for _ in range(num_layers)
            ),
        )
        self.sequence_output_layernorm = MixtralLayerNormalization(hidden_dim, layer_norm_epsilon)

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
