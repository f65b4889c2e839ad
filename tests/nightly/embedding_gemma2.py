from __future__ import annotations

from typing import Any

import numpy as np

from ..cases.gemma4 import (
    PATCHES,
    SMALL,
    audio_encoder,
    images,
    places,
    sound,
    speech,
    text,
    vision_encoder,
)
from ..oracle import Case


def words(rng: np.random.Generator, batch: int, length: int) -> dict[str, np.ndarray]:
    given = text(rng, batch, length)
    del given["position_ids"]
    return given


def two_shapes(
    rng: np.random.Generator, batch: int, wide: tuple[int, int], high: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Two images a row with as many patches, of different widths."""
    one, other = images(rng, batch, 1, wide, 0), images(rng, batch, 1, high, 0)
    return {name: np.concatenate((one[name], other[name]), axis=1) for name in one}


def of_both(rng: np.random.Generator) -> dict[str, np.ndarray]:
    given: dict[str, Any] = {
        **words(rng, 5, 13),
        **two_shapes(rng, 5, (2, 6), (6, 2)),
        **places(rng, 5, 13, 2, 3, "vision"),
        **sound(rng, 5, 1, 18),
        **places(rng, 5, 13, 1, 4, "audio"),
    }
    del given["vision_mask"], given["audio_mask"]
    return given


CASES = [
    Case(
        "embedding-gemma2",
        "EmbeddingGemma2Backbone",
        {
            **SMALL,
            "sliding_window_size": 2,
            "sliding_window_pattern": 2,
            "vision_encoder": vision_encoder(),
            "audio_encoder": audio_encoder(),
            "hidden_size_per_layer_input": 5,
            "embedding_dim": 7,
        },
        of_both,
    ),
    Case(
        "embedding-gemma2-text",
        "EmbeddingGemma2Backbone",
        {
            **SMALL,
            "num_layers": 3,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "num_key_value_heads": 2,
            "num_global_key_value_heads": 1,
            "global_head_dim": 8,
            "use_sliding_window_attention": False,
            "local_rope_scaling_factor": 2.0,
            "global_rope_scaling_factor": 8.0,
            "global_rope_wavelength": 1e3,
            "local_rope_wavelength": 1e2,
            "global_rope_partial_rotary_factor": 0.6,
            "layer_norm_epsilon": 1e-2,
            "embedding_dim": 5,
        },
        lambda rng: words(rng, 6, 11),
    ),
]

PRESETS = {
    "embedding_gemma2": {
        "vocabulary_size": 262144,
        "image_size": 896,
        "num_layers": 24,
        "num_query_heads": 4,
        "num_key_value_heads": 2,
        "hidden_dim": 512,
        "intermediate_dim": 2048,
        "head_dim": 256,
        "global_head_dim": 512,
        "num_global_key_value_heads": 1,
        "hidden_size_per_layer_input": 512,
        "embedding_dim": 768,
        "vision_encoder": vision_encoder(
            **PATCHES,
            num_heads=12,
            hidden_dim=768,
            num_layers=16,
            intermediate_dim=3072,
            head_dim=64,
            output_dim=512,
            use_clipped_linears=False,
        ),
        "audio_encoder": speech(512),
    }
}
