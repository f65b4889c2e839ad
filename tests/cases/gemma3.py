from __future__ import annotations

from typing import Any

import numpy as np

from ..oracle import Case
from .common import ids, padding
from .gemma import inputs

SMALL = {
    "vocabulary_size": 41,
    "image_size": None,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 1,
    "hidden_dim": 24,
    "intermediate_dim": 18,
    "head_dim": 6,
}
# Of seven layers the sixth is global. Narrower ones amplify what rounds beyond the limits.
DEEP = {
    **SMALL,
    "num_layers": 7,
    "hidden_dim": 32,
    "num_key_value_heads": 2,
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "use_sliding_window_attention": True,
    "sliding_window_size": 4,
    "local_rope_scaling_factor": 2.0,
    "global_rope_scaling_factor": 8.0,
}


def vision_encoder(image_size: int, **config: Any) -> dict[str, Any]:
    config = {
        "patch_size": 4,
        "num_heads": 2,
        "hidden_dim": 10,
        "num_layers": 1,
        "intermediate_dim": 14,
        "output_dim": 24,
        "pool_size": 2,
        "name": "gemma3_vision_encoder",
        **config,
        "image_size": image_size,
    }
    return {
        "module": "keras_hub.src.models.gemma3.gemma3_vision_encoder",
        "class_name": "Gemma3VisionEncoder",
        "config": config,
        "registered_name": "keras_hub>Gemma3VisionEncoder",
    }


def images(
    rng: np.random.Generator, batch: int, length: int, count: int, size: int, tokens: int
) -> dict[str, np.ndarray]:
    """`count` images a row, one after the other from anywhere on; every other row lacks one."""
    indices = np.zeros((batch, count * tokens), "int32")
    mask = np.zeros((batch, length), "int32")
    for row in range(batch):
        present = count - row % 2
        gap = int(rng.integers(1, 3))
        for i in range(present):
            start = gap + i * (tokens + row % 3)
            places = np.arange(start, start + tokens)
            assert places[-1] < length - 2
            indices[row, i * tokens : (i + 1) * tokens] = places
            mask[row, places] = 1
    return {
        "images": rng.standard_normal((batch, count, size, size, 3)).astype("float32"),
        "vision_indices": indices,
        "vision_mask": mask,
    }


def with_images(batch: int, length: int, count: int, size: int, tokens: int) -> Any:
    return lambda rng: {
        "token_ids": ids(rng, batch, length, 41),
        "padding_mask": padding(rng, batch, length),
        **images(rng, batch, length, count, size, tokens),
    }


def embedding_inputs(batch: int, length: int) -> Any:
    """Without a row of padding only, of which KerasHub makes gradients that are no numbers."""

    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        mask = padding(rng, batch, length)
        mask[:, length // 2] = 1
        return {"token_ids": ids(rng, batch, length, 41), "padding_mask": mask}

    return make


CASES = [
    Case(
        "gemma3-images",
        "Gemma3Backbone",
        {**SMALL, "image_size": 8, "vision_encoder": vision_encoder(8)},
        # No two sizes are the same, or compiled code would take one for the other.
        with_images(6, 15, 4, 8, 1),
    ),
    Case("gemma3", "Gemma3Backbone", DEEP, inputs(6, 13)),
    Case(
        "gemma3-capped",
        "Gemma3Backbone",
        {
            **SMALL,
            "num_query_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 10,
            "use_query_key_norm": False,
            "query_head_dim_normalize": False,
            "attention_logit_soft_cap": 2.5,
            "final_logit_soft_cap": 3.0,
            "layer_norm_epsilon": 1e-2,
            "dropout": 0.2,
        },
        inputs(2, 1),
    ),
    Case(
        "gemma3-embedding",
        "Gemma3Backbone",
        {
            **DEEP,
            "use_bidirectional_attention": True,
            "is_embedding_model": True,
            "pooling_intermediate_dim": 7,
            "embedding_dim": 5,
        },
        embedding_inputs(5, 9),
    ),
    # Images of four tokens, wider than the windows.
    Case(
        "gemma3-images-window",
        "Gemma3Backbone",
        {
            **DEEP,
            "num_layers": 6,
            "hidden_dim": 24,
            "sliding_window_size": 3,
            "attention_logit_soft_cap": 5.0,
            "image_size": 13,
            "vision_encoder": vision_encoder(
                13, patch_size=3, num_heads=1, num_layers=2, layer_norm_epsilon=1e-2
            ),
        },
        with_images(6, 17, 2, 13, 4),
    ),
]
