"""Qwen1.5-MoE and Qwen2-MoE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...backbones.qwen_moe import QwenMoeBackbone
from ..checkpoints.table import REQUIRED, Key, Table, either, fixed, key, rule, under
from .llama import (
    ATTENTION,
    BIASES,
    BLOCKS,
    CONFIG,
    DROPPED,
    ENDS,
    EVEN_HEADS,
    LINEAR_ROPE,
    RENAMES,
    TIED,
)
from .mixtral import GATED, GATED_EXPERTS, NORM
from .qwen import load_window


def window(
    used: bool, size: int, types: list[str] | None, first_full: int, layers: int
) -> tuple[bool, int]:
    if types is None:
        types = [
            "full_attention" if i % 2 or i >= first_full else "sliding_attention"
            for i in range(layers)
        ]
    return load_window(used, size, first_full, types, layers)


def save_window(used: bool, size: int, layers: int) -> tuple[Any, ...]:
    return used, size, [("full_attention", "sliding_attention")[used]] * layers


def sparse_layers(step: int, dense: Sequence[int] | None, experts: int, layers: int) -> set[bool]:
    """Whether layers have experts; both where some have."""
    return {experts > 0 and (i + 1) % step == 0 and i not in (dense or ()) for i in range(layers)}


def load_sparsity(
    step: int, dense: list[int] | None, experts: int, layers: int
) -> tuple[int, list[int]]:
    """KerasHub gives all layers experts or none."""
    if len(sparse_layers(step, dense, experts, layers)) > 1:
        raise ValueError(
            f"decoder_sparse_step {step} and mlp_only_layers {dense} give some layers experts; "
            "only all layers or none can have them"
        )
    return step, dense or []


def save_sparsity(
    step: int, dense: Sequence[int], experts: int, layers: int
) -> tuple[int, list[int]]:
    ours = sparse_layers(step, dense, experts, 1)
    if sparse_layers(step, dense, experts, layers) == ours:
        return step, list(dense)
    return 1, [] if ours == {True} else list(range(layers))


QWEN_MOE = Table(
    model_types=("qwen2_moe",),
    backbone=QwenMoeBackbone,
    architecture="Qwen2MoeForCausalLM",
    config=(
        *CONFIG,
        key("num_attention_heads", "num_query_heads"),
        key("num_key_value_heads", "num_key_value_heads"),
        EVEN_HEADS,
        key("rms_norm_eps", "layer_norm_epsilon", 1e-6),
        key("attention_dropout", "dropout", 0.0),
        LINEAR_ROPE,
        key("tie_word_embeddings", "tie_word_embeddings", False),
        Key(
            {
                "use_sliding_window": False,
                "sliding_window": 4096,
                "layer_types": None,
                "max_window_layers": 28,
                "num_hidden_layers": REQUIRED,
            },
            ("use_sliding_window_attention", "sliding_window_size", "num_layers"),
            window,
            save_window,
        ),
        key("moe_intermediate_size", "moe_intermediate_dim"),
        key("shared_expert_intermediate_size", "shared_expert_intermediate_dim"),
        either(("num_experts", "num_local_experts"), "num_experts"),
        key("num_experts_per_tok", "top_k", 4),
        key("norm_topk_prob", "norm_top_k_prob", False),
        Key(
            {
                "decoder_sparse_step": 1,
                "mlp_only_layers": None,
                "num_experts": 1,
                "num_hidden_layers": REQUIRED,
            },
            ("decoder_sparse_step", "mlp_only_layers", "num_experts", "num_layers"),
            load_sparsity,
            save_sparsity,
        ),
        key("router_aux_loss_coef", "router_aux_loss_coefficient", 0.001),
        key("output_router_logits", "output_router_logits", False),
        fixed("qkv_bias", True),
    ),
    ignored=("max_position_embeddings",),
    weights=(
        *ENDS,
        *under(
            *BLOCKS,
            (
                *ATTENTION,
                *BIASES,
                NORM,
                *GATED_EXPERTS,
                *under("mlp.shared_expert.", "mlp.shared_expert_dense.", GATED),
                rule("mlp.shared_expert_gate.weight", "mlp.shared_expert_gate_dense.weight"),
                *under("mlp.", "mlp.", GATED),
            ),
        ),
    ),
    renames=RENAMES,
    dropped=DROPPED,
    tied=TIED,
)
TABLES = (QWEN_MOE,)
