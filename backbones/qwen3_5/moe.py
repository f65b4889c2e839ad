"""Qwen3.5 with a mixture of experts."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..layers.core import Dense
from ..layers.decoder import GatedExperts, GatedFeedForward
from ..layers.dtypes import DTypeLike
from ..layers.layer import Layer
from ..layers.layout import Layout
from ..layers.routing import choose_experts
from .backbone import INIT, DecoderBlock, HybridDecoder, Mixer, Qwen3_5LayerNorm
from .vision import Qwen3_5VisionEncoder


class Qwen3_5MoeMLP(GatedFeedForward):
    layout = replace(
        GatedFeedForward.layout,
        order=(
            "feedforward_gate_dense",
            "feedforward_intermediate_dense",
            "feedforward_output_dense",
        ),
    )


class Qwen3_5MoeExperts(GatedExperts):
    """The experts under their Keras name."""


class Qwen3_5MoeSparseMoeBlock(Layer):
    """The networks of each token's `top_k` most probable experts, and one that all tokens share."""

    layout = Layout(
        attributes={
            "router_gate": "_router_gate",
            "experts": "expert_bank",
            "shared_expert_gate": "_shared_expert_gate",
        },
        built_on_call=True,
    )

    def __init__(
        self,
        hidden_dim: int,
        moe_intermediate_dim: int,
        shared_expert_intermediate_size: int,
        num_experts: int,
        top_k: int,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.router_gate = Dense(hidden_dim, num_experts, use_bias=False, kernel_initializer=INIT)
        self.experts = Qwen3_5MoeExperts(num_experts, hidden_dim, moe_intermediate_dim)
        self.shared_expert = Qwen3_5MoeMLP(hidden_dim, shared_expert_intermediate_size, INIT)
        self.shared_expert_gate = Dense(hidden_dim, 1, use_bias=False, kernel_initializer=INIT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(0, 1)
        weights, experts = choose_experts(self.router_gate(tokens), self.top_k, normalize=True)
        shared = self.shared_expert(x) * torch.sigmoid(self.shared_expert_gate(x))
        return self.experts(tokens, experts, weights).view_as(x) + shared


class Qwen3_5MoeTransformerDecoder(DecoderBlock):
    def __init__(
        self,
        mixer: Mixer,
        hidden_dim: int,
        sparse_moe_block: Qwen3_5MoeSparseMoeBlock,
        epsilon: float,
        dropout: float,
    ) -> None:
        super().__init__(mixer, hidden_dim, epsilon, dropout)
        self.sparse_moe_block = sparse_moe_block
        self.post_attention_layernorm = Qwen3_5LayerNorm(hidden_dim, epsilon)

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sparse_moe_block(x)


class Qwen3_5MoeBackbone(HybridDecoder):
    """Qwen3.5's decoder with a mixture of experts for the feed-forward network.

    Inputs, images and errors are `Qwen3_5Backbone`'s.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        head_dim: dimensions of a head of attention.
        hidden_dim: width of the hidden states.
        moe_intermediate_dim: width inside an expert.
        shared_expert_intermediate_size: width inside the expert that all tokens share.
        num_experts: experts of a block.
        top_k: experts of each token; their probabilities are made to sum to one.
        layer_types: `linear_attention` or `full_attention` for each block; `None` for
            `full_attention` in every fourth.
        partial_rotary_factor: share of a head's dimensions that is rotated.
        rope_max_wavelength: base of the rotary frequencies.
        rope_scaling_factor: divides the positions.
        layer_norm_epsilon: of the norms.
        dropout: rate on the output of attention or the DeltaNet; of attention before its
            projection, too.
        tie_word_embeddings: whether `token_embedding(x, reverse=True)` uses the embedding's own
            matrix, not a second one.
        sliding_window_size: keys that a query of `full_attention` sees, itself included; `None` for
            all before it. KerasHub's torch backend drops the window, its other backends apply it.
        linear_num_key_heads: heads of the queries and keys of a DeltaNet.
        linear_num_value_heads: heads of its values, a multiple of that.
        linear_key_head_dim: dimensions of a head of its queries and keys.
        linear_value_head_dim: dimensions of a head of its values.
        linear_conv_kernel_dim: taps of its causal convolution.
        vision_encoder: the tower of images; `None` for a model of text, which has no inputs for
            them.
        mrope_section: how many pairs of dimensions each axis of `space_positions` turns.
        router_aux_loss_coefficient: has no effect here. It scales the loss that balances the
            experts, which KerasHub adds; in PyTorch that is the training loop's, see
            `load_balancing_loss` in `backbones.layers.routing`.
        dtype, trainable, name: as in `Model`.
    """

    keras_module = "keras_hub.src.models.qwen3_5_moe.qwen3_5_moe_backbone"

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        hidden_dim: int,
        moe_intermediate_dim: int,
        shared_expert_intermediate_size: int,
        num_experts: int,
        top_k: int,
        layer_types: list[str] | None = None,
        partial_rotary_factor: float = 0.25,
        rope_max_wavelength: float = 10000,
        rope_scaling_factor: float = 1.0,
        layer_norm_epsilon: float = 1e-6,
        dropout: float = 0.0,
        tie_word_embeddings: bool = False,
        sliding_window_size: int | None = 32768,
        linear_num_key_heads: int = 16,
        linear_num_value_heads: int = 32,
        linear_key_head_dim: int = 128,
        linear_value_head_dim: int = 128,
        linear_conv_kernel_dim: int = 4,
        vision_encoder: Qwen3_5VisionEncoder | None = None,
        mrope_section: list[int] | None = None,
        router_aux_loss_coefficient: float = 0.001,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        def block(mixer: Mixer) -> Qwen3_5MoeTransformerDecoder:
            sparse_moe_block = Qwen3_5MoeSparseMoeBlock(
                hidden_dim,
                moe_intermediate_dim,
                shared_expert_intermediate_size,
                num_experts,
                top_k,
            )
            return Qwen3_5MoeTransformerDecoder(
                mixer, hidden_dim, sparse_moe_block, layer_norm_epsilon, dropout
            )

        super().__init__(
            block,
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_query_heads=num_query_heads,
            num_key_value_heads=num_key_value_heads,
            head_dim=head_dim,
            hidden_dim=hidden_dim,
            layer_types=layer_types,
            partial_rotary_factor=partial_rotary_factor,
            rope_max_wavelength=rope_max_wavelength,
            rope_scaling_factor=rope_scaling_factor,
            layer_norm_epsilon=layer_norm_epsilon,
            dropout=dropout,
            tie_word_embeddings=tie_word_embeddings,
            sliding_window_size=sliding_window_size,
            linear_num_key_heads=linear_num_key_heads,
            linear_num_value_heads=linear_num_value_heads,
            linear_key_head_dim=linear_key_head_dim,
            linear_value_head_dim=linear_value_head_dim,
            linear_conv_kernel_dim=linear_conv_kernel_dim,
            vision_encoder=vision_encoder,
            dtype=dtype,
            trainable=trainable,
            name=name,
        )
