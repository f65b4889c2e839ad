"""Mixtral, and what the tables of the mixtures of experts share."""

from __future__ import annotations

from dataclasses import replace

from ...backbones.mixtral import MixtralBackbone
from ..checkpoints.table import EXPERTS, HALVES, Rule, Table, either, fixed, key, rule, under
from .llama import ATTENTION, BLOCKS, CONFIG, DROPPED, ENDS, EVEN_HEADS, LINEAR_ROPE, RENAMES, TIED

NORM = rule("post_attention_layernorm.weight", "feedforward_layernorm.weight")


def experts(theirs: str, ours: str) -> Rule:
    """One matrix of each expert; theirs with `[]` for its number."""
    return Rule((theirs,), (ours,), (EXPERTS,), count="num_experts")


# Of Qwen2 MoE and Qwen3 MoE.
GATED_EXPERTS = (
    rule("mlp.gate.weight", "mlp.sparse_feedforward_gate_dense.weight"),
    Rule(
        ("mlp.experts.[].gate_proj.weight", "mlp.experts.[].up_proj.weight"),
        ("mlp.experts.gate_and_intermediate",),
        (HALVES, EXPERTS),
        count="num_experts",
    ),
    experts("mlp.experts.[].down_proj.weight", "mlp.experts.output"),
)
GATED = (
    rule("gate_proj.weight", "feedforward_gate_dense.weight"),
    rule("up_proj.weight", "feedforward_intermediate_dense.weight"),
    rule("down_proj.weight", "feedforward_output_dense.weight"),
)

MIXTRAL = Table(
    model_types=("mixtral",),
    backbone=MixtralBackbone,
    architecture="MixtralForCausalLM",
    config=(
        *CONFIG,
        key("num_attention_heads", "num_query_heads"),
        key("num_key_value_heads", "num_key_value_heads"),
        EVEN_HEADS,
        key("rms_norm_eps", "layer_norm_epsilon", 1e-5),
        key("attention_dropout", "dropout", 0.0),
        replace(LINEAR_ROPE, theirs={**LINEAR_ROPE.theirs, "rope_theta": 1e6}),
        key("sliding_window", "sliding_window", None),
        either(("num_local_experts", "num_experts"), "num_experts"),
        key("num_experts_per_tok", "top_k", 2),
        key("router_jitter_noise", "router_jitter_noise", 0.0),
        key("router_aux_loss_coef", "router_aux_loss_coef", 0.001),
        key("output_router_logits", "output_router_logits", False),
        # Our embedding is never tied: a tied one is read twice.
        fixed("tie_word_embeddings", False, True),
    ),
    ignored=("max_position_embeddings",),
    weights=(
        *ENDS,
        *under(
            *BLOCKS,
            (
                *ATTENTION,
                NORM,
                *under(
                    "block_sparse_moe.",
                    "mlp.",
                    (
                        rule("gate.weight", "sparse_feedforward_gate_dense.weight"),
                        experts("experts.[].w1.weight", "experts.gate"),
                        experts("experts.[].w3.weight", "experts.intermediate"),
                        experts("experts.[].w2.weight", "experts.output"),
                    ),
                ),
            ),
        ),
    ),
    renames=RENAMES,
    dropped=DROPPED,
    tied=TIED,
)
TABLES = (MIXTRAL,)
