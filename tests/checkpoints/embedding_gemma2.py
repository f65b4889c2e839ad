from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..cases.gemma import inputs
from . import Checkpoint
from .gemma4 import AUDIO_CONFIG, GEMMA4, TEXT, TOKENS, VISION_CONFIG, with_towers

KEPT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "layer_types"),
)
CONFIG = {
    **{name: TEXT[name] for name in KEPT},
    "global_head_dim": 8,
    "num_global_key_value_heads": 3,
    "sliding_window": 2,
    "hidden_size_per_layer_input": 5,
    "embedding_dim": 7,
}
ROPE = {
    "full_attention": {
        "rope_type": "proportional",
        "rope_theta": 1e3,
        "partial_rotary_factor": 0.5,
    },
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e2},
}
WITHOUT = ("position_ids", "vision_mask", "audio_mask")


def seen_and_heard(images: int, clips: int) -> Callable[..., Any]:
    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        given = with_towers(images, clips)(rng)
        return {name: value for name, value in given.items() if name not in WITHOUT}

    return make


def checkpoint(name: str, architecture: str, config: Any, make: Any) -> Checkpoint:
    return Checkpoint(
        name, architecture, "EmbeddingGemma2Backbone", config, GEMMA4, make, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint(
        "embedding-gemma2-text",
        "EmbeddingGemma2TextModel",
        {**CONFIG, "rope_parameters": ROPE},
        inputs(4, 9),
    ),
    checkpoint(
        "embedding-gemma2",
        "EmbeddingGemma2Model",
        {
            "text_config": CONFIG,
            "vision_config": {**VISION_CONFIG, "use_clipped_linears": True},
            "audio_config": AUDIO_CONFIG,
            **TOKENS,
        },
        seen_and_heard(2, 1),
    ),
]
OLD = [("embedding-gemma2-text", {"layer_types": ..., "sliding_window_pattern": 2})]
