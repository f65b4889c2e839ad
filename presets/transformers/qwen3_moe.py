"""Qwen3-MoE."""

from __future__ import annotations

from typing import Any

from ...backbones.qwen3_moe import Qwen3MoeBackbone
from ..checkpoints.table import Key, Table, either, key, only, rule, under
from .llama import ATTENTION, BLOCKS, CONFIG, DROPPED, ENDS, HEAD_DIM, LINEAR_ROPE, RENAMES, TIED
from .mixtral import GATED, GATED_EXPERTS, NORM

EPSILON = 1e-6


def check_epsilon(epsilon: float) -> tuple[float]:
    """transformers has one epsilon for all norms, KerasHub a fixed one for those of the heads."""
    if epsilon != EPSILON:
        raise ValueError(
            f"rms_norm_eps is {epsilon}, but the norms on queries and keys compute with {EPSILON}"
        )
    return (epsilon,)


def save_window(size: int | None) -> tuple[Any, ...]:
    return (True, size) if size else (False,)


QWEN3_MOE = Table(
    model_types=("qwen3_moe",),
    backbone=Qwen3MoeBackbone,
    architecture="Qwen3MoeForCausalLM",
    config=(
        *CONFIG,
        key("num_attention_heads", "num_query_heads"),
        key("num_key_value_heads", "num_key_value_heads"),
        HEAD_DIM,
        Key({"rms_norm_eps": EPSILON}, ("layer_norm_epsilon",), check_epsilon, check_epsilon),
        key("attention_dropout", "dropout", 0.0),
        LINEAR_ROPE,
        key("tie_word_embeddings", "tie_word_embeddings", False),
        Key(
            {"use_sliding_window": False, "sliding_window": 4096},
            ("sliding_window_size",),
            lambda used, size: (size if used else None,),
            save_window,
        ),
        key("moe_intermediate_size", "moe_intermediate_dim"),
        either(("num_experts", "num_local_experts"), "num_experts"),
        key("num_experts_per_tok", "top_k", 8),
        key("norm_topk_prob", "norm_top_k_prob", False),
        key("decoder_sparse_step", "decoder_sparse_step", 1),
        key("mlp_only_layers", "mlp_only_layers", (), lambda layers: layers or [], list),
        key("router_aux_loss_coef", "router_aux_loss_coefficient", 0.001),
        only("attention_bias", False),
    ),
    ignored=("max_position_embeddings", "max_window_layers", "output_router_logits"),
    weights=(
        *ENDS,
        *under(
            *BLOCKS,
            (
                *ATTENTION,
                rule("self_attn.q_norm.weight", "self_attention.query_dense_layernorm.weight"),
                rule("self_attn.k_norm.weight", "self_attention.key_dense_layernorm.weight"),
                NORM,
                *GATED_EXPERTS,
                *under("mlp.", "mlp.", GATED),
            ),
        ),
    ),
    renames=RENAMES,
    dropped=DROPPED,
    tied=TIED,
)
TABLES = (QWEN3_MOE,)
