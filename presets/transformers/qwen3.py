"""Qwen3."""

from __future__ import annotations

import warnings
from typing import Any

from ...backbones.qwen3 import Qwen3Backbone
from ..checkpoints.table import Key, Table, key, only, rule, under
from .llama import (
    ATTENTION,
    BLOCKS,
    CONFIG,
    DROPPED,
    ENDS,
    FEED_FORWARD,
    HEAD_DIM,
    LINEAR_ROPE,
    RENAMES,
    TIED,
)
from .qwen import WINDOW_KEYS, window_of

HEAD_EPSILON = 1e-5
LEAST_EPSILON = 1e-6


def check_epsilon(epsilon: float) -> tuple[float]:
    """transformers has one epsilon for all norms, KerasHub a fixed one for those of the heads."""
    if not LEAST_EPSILON <= epsilon <= HEAD_EPSILON:
        raise ValueError(
            f"rms_norm_eps is {epsilon}, but the norms on queries and keys compute with "
            f"{HEAD_EPSILON}; only {LEAST_EPSILON} to {HEAD_EPSILON} comes near"
        )
    if epsilon != HEAD_EPSILON:
        warnings.warn(
            f"rms_norm_eps is {epsilon}, but in Qwen3Backbone, as in KerasHub's, the norms on "
            f"queries and keys compute with {HEAD_EPSILON}.",
            stacklevel=2,
        )
    return (epsilon,)


def save_window(size: int | None) -> tuple[Any, ...]:
    return (True, size, 0) if size else (False,)


QWEN3 = Table(
    model_types=("qwen3",),
    backbone=Qwen3Backbone,
    architecture="Qwen3ForCausalLM",
    config=(
        *CONFIG,
        key("num_attention_heads", "num_query_heads"),
        key("num_key_value_heads", "num_key_value_heads"),
        HEAD_DIM,
        Key({"rms_norm_eps": 1e-6}, ("layer_norm_epsilon",), check_epsilon, check_epsilon),
        key("attention_dropout", "dropout", 0.0),
        LINEAR_ROPE,
        key("tie_word_embeddings", "tie_word_embeddings", False),
        Key(WINDOW_KEYS, ("sliding_window_size",), lambda *v: (window_of(*v),), save_window),
        only("attention_bias", False),
    ),
    ignored=("max_position_embeddings",),
    weights=(
        *ENDS,
        *under(
            *BLOCKS,
            (
                *ATTENTION,
                rule("self_attn.q_norm.weight", "self_attention.query_dense_layernorm.weight"),
                rule("self_attn.k_norm.weight", "self_attention.key_dense_layernorm.weight"),
                *FEED_FORWARD,
            ),
        ),
    ),
    renames=RENAMES,
    dropped=DROPPED,
    tied=TIED,
)
TABLES = (QWEN3,)
