"""Mistral."""

from __future__ import annotations

from ...backbones.mistral import MistralBackbone
from ..checkpoints.table import Table, fixed, key, under
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

MISTRAL = Table(
    model_types=("mistral",),
    backbone=MistralBackbone,
    architecture="MistralForCausalLM",
    config=(
        *CONFIG,
        key("num_attention_heads", "num_query_heads"),
        key("num_key_value_heads", "num_key_value_heads"),
        HEAD_DIM,
        key("rms_norm_eps", "layer_norm_epsilon", 1e-6),
        key("attention_dropout", "dropout", 0.0),
        LINEAR_ROPE,
        key("sliding_window", "sliding_window", 4096),
        # Our embedding is never tied: a tied one is read twice.
        fixed("tie_word_embeddings", False, True),
    ),
    ignored=("layer_types",),
    weights=(*ENDS, *under(*BLOCKS, (*ATTENTION, *FEED_FORWARD))),
    renames=RENAMES,
    dropped=DROPPED,
    tied=TIED,
    extra={"max_position_embeddings": 32768},
)
TABLES = (MISTRAL,)
