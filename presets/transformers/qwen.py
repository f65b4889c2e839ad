"""Qwen2 and Qwen2.5."""

from __future__ import annotations

from typing import Any

from ...backbones.qwen import QwenBackbone
from ..checkpoints.table import REQUIRED, Key, Table, key, under
from .llama import (
    ATTENTION,
    BIASES,
    BLOCKS,
    CONFIG,
    DROPPED,
    ENDS,
    EVEN_HEADS,
    FEED_FORWARD,
    LINEAR_ROPE,
    RENAMES,
    TIED,
)

WINDOW_KEYS = {
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
    "num_hidden_layers": REQUIRED,
}


def window_of(
    used: bool, size: int | None, first: int, types: list[str] | None, layers: int
) -> int | None:
    """The window of all layers; `None` without one."""
    if not used or size is None:
        return None
    if types is None:
        types = [("full_attention", "sliding_attention")[i >= first] for i in range(layers)]
    if set(types) == {"sliding_attention"}:
        return size
    if set(types) == {"full_attention"}:
        return None
    raise ValueError(
        "layer_types or max_window_layers give a window to some layers; only a window of all "
        "layers or of none can be computed"
    )


def load_window(used: bool, size: int | None, *others: Any) -> tuple[bool, int]:
    window = window_of(used, size, *others)
    return window is not None, window or size or 32768


def save_window(used: bool, size: int) -> tuple[Any, ...]:
    return (True, size, 0) if used else (False, size)


QWEN = Table(
    model_types=("qwen2",),
    backbone=QwenBackbone,
    architecture="Qwen2ForCausalLM",
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
            WINDOW_KEYS,
            ("use_sliding_window_attention", "sliding_window_size"),
            load_window,
            save_window,
        ),
    ),
    ignored=("max_position_embeddings",),
    weights=(*ENDS, *under(*BLOCKS, (*ATTENTION, *BIASES, *FEED_FORWARD))),
    renames=RENAMES,
    dropped=DROPPED,
    tied=TIED,
)
TABLES = (QWEN,)
