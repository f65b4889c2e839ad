"""Gemma and Gemma 2."""

from __future__ import annotations

import warnings
from typing import Any

from ...backbones.gemma import GemmaBackbone
from ..checkpoints.table import (
    REQUIRED,
    Key,
    Table,
    assumed,
    constant,
    fixed,
    key,
    only,
    rule,
    under,
)


def half(intermediate_dim: int) -> int:
    if intermediate_dim % 2:
        raise ValueError(f"intermediate_dim is {intermediate_dim}; transformers needs an even one")
    return intermediate_dim // 2


def as_float(soft_cap: float | None) -> float | None:
    """transformers does not take integers here."""
    return None if soft_cap is None else float(soft_cap)


def check_layer_types(layer_types: Any, num_layers: int) -> tuple[()]:
    wanted = [("sliding_attention", "full_attention")[i % 2] for i in range(num_layers)]
    if layer_types not in (None, wanted):
        raise ValueError("layer_types are not alternately sliding_attention and full_attention")
    return ()


def load_query_scale(scalar: float, head_dim: int, width: int, heads: int) -> tuple[bool]:
    if scalar not in (head_dim, width // heads):
        raise ValueError(
            f"query_pre_attn_scalar is {scalar}; only head_dim {head_dim}, or the width of the "
            f"model by the number of heads, {width // heads}, can be computed"
        )
    if scalar != head_dim:
        warnings.warn(
            f"query_pre_attn_scalar is {scalar}, but the backbone, as KerasHub's, scales by the "
            f"head_dim {head_dim}.",
            stacklevel=2,
        )
    return (scalar == head_dim,)


def save_query_scale(normalize: bool, head_dim: int, width: int, heads: int) -> tuple[int]:
    if width % heads:  # though nothing is divided there
        raise ValueError(f"hidden_dim {width} is not divisible by num_query_heads {heads}")
    scalar = head_dim if normalize else width // heads
    load_query_scale(scalar, head_dim, width, heads)
    return (scalar,)


ACTIVATIONS = ("gelu_pytorch_tanh", "gelu_new", "gelu")  # "gelu" is a slip of early files
CONFIG = (
    key("vocab_size", "vocabulary_size"),
    key("num_hidden_layers", "num_layers"),
    key("num_attention_heads", "num_query_heads"),
    key("num_key_value_heads", "num_key_value_heads"),
    key("hidden_size", "hidden_dim"),
    key("intermediate_size", "intermediate_dim", load=lambda size: size * 2, save=half),
    key("head_dim", "head_dim"),
    key("attention_dropout", "dropout", 0.0),
    assumed("rms_norm_eps", 1e-6),
    constant(layer_norm_epsilon=1e-6),
    fixed("rope_parameters.rope_theta", 1e4),
    fixed("rope_parameters.rope_type", "default"),
    only("rope_theta", 1e4),
    only("rope_scaling", None),
    only("attention_bias", False),
    only("tie_word_embeddings", True),
    only("use_bidirectional_attention", None, False),
)
BLOCK = (
    rule("input_layernorm.weight", "pre_attention_norm.weight"),
    rule("self_attn.q_proj.weight", "attention.query.weight"),
    rule("self_attn.k_proj.weight", "attention.key.weight"),
    rule("self_attn.v_proj.weight", "attention.value.weight"),
    rule("self_attn.o_proj.weight", "attention.attention_output.weight"),
    rule("mlp.gate_proj.weight", "ffw_gating.weight"),
    rule("mlp.up_proj.weight", "ffw_gating_2.weight"),
    rule("mlp.down_proj.weight", "ffw_linear.weight"),
)
ENDS = (
    rule("model.embed_tokens.weight", "token_embedding.weight"),
    rule("model.norm.weight", "final_normalization.weight"),
)
RENAMES = tuple((name, f"model.{name}") for name in ("embed_tokens.*", "layers.*", "norm.*"))
DROPPED = ("model.layers.{}.self_attn.rotary_emb.inv_freq", "score.*")
TIED = {"lm_head.weight": "model.embed_tokens.weight"}

GEMMA = Table(
    model_types=("gemma",),
    backbone=GemmaBackbone,
    architecture="GemmaForCausalLM",
    config=(
        *CONFIG,
        fixed("hidden_act", *ACTIVATIONS),
        only("hidden_activation", None, *ACTIVATIONS),
        constant(
            query_head_dim_normalize=True,
            use_post_ffw_norm=False,
            use_post_attention_norm=False,
            attention_logit_soft_cap=None,
            final_logit_soft_cap=None,
            use_sliding_window_attention=False,
        ),
    ),
    ignored=("max_position_embeddings",),
    weights=(
        *ENDS,
        *under(
            "model.layers.{}.",
            "transformer_layers.{}.",
            (*BLOCK, rule("post_attention_layernorm.weight", "pre_ffw_norm.weight")),
        ),
    ),
    renames=RENAMES,
    dropped=DROPPED,
    tied=TIED,
)
GEMMA2 = Table(
    model_types=("gemma2",),
    backbone=GemmaBackbone,
    architecture="Gemma2ForCausalLM",
    config=(
        *CONFIG,
        fixed("hidden_activation", *ACTIVATIONS),
        only("hidden_act", *ACTIVATIONS),
        constant(
            use_post_ffw_norm=True,
            use_post_attention_norm=True,
            use_sliding_window_attention=True,
        ),
        key("attn_logit_softcapping", "attention_logit_soft_cap", 50.0, save=as_float),
        key("final_logit_softcapping", "final_logit_soft_cap", 30.0, save=as_float),
        key("sliding_window", "sliding_window_size", 4096),
        Key({"layer_types": None, "num_hidden_layers": REQUIRED}, (), check_layer_types, tuple),
        Key(
            {
                "query_pre_attn_scalar": 256,
                "head_dim": REQUIRED,
                "hidden_size": REQUIRED,
                "num_attention_heads": REQUIRED,
            },
            ("query_head_dim_normalize", "head_dim", "hidden_dim", "num_query_heads"),
            load_query_scale,
            save_query_scale,
        ),
    ),
    ignored=("cache_implementation", "max_position_embeddings", "sliding_window_size"),
    weights=(
        *ENDS,
        *under(
            "model.layers.{}.",
            "transformer_layers.{}.",
            (
                *BLOCK,
                rule("post_attention_layernorm.weight", "post_attention_norm.weight"),
                rule("pre_feedforward_layernorm.weight", "pre_ffw_norm.weight"),
                rule("post_feedforward_layernorm.weight", "post_ffw_norm.weight"),
            ),
        ),
    ),
    renames=RENAMES,
    dropped=DROPPED,
    tied=TIED,
)
TABLES = (GEMMA, GEMMA2)
