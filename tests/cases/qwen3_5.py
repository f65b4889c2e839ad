from __future__ import annotations

from typing import Any

import numpy as np

from ..oracle import Case
from .llama import inputs

SMALL: dict[str, Any] = {
    "vocabulary_size": 41,
    "num_layers": 4,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_dim": 12,
    "intermediate_dim": 18,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 5,
}


def vision_encoder(**config: Any) -> dict[str, Any]:
    config = {
        "depth": 2,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 14,
        "in_channels": 3,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": 12,
        "num_position_embeddings": 27,
        **config,
    }
    return {
        "module": "keras_hub.src.models.qwen3_5.qwen3_5_vision_encoder",
        "class_name": "Qwen3_5VisionEncoder",
        "config": config,
        "registered_name": "Qwen3_5VisionEncoder",
    }


def with_images(
    batch: int, length: int, grid: list[list[int]], encoder: dict[str, Any], room: int | None = None
) -> Any:
    """Each row has images of these sizes, in another order; their tokens lie anywhere in the first
    `room` of the row.
    """
    config = encoder["config"]
    patch = [config["temporal_patch_size"], *[config["patch_size"]] * 2, config["in_channels"]]
    patches = int(np.prod(grid, axis=1).sum())
    text = inputs(batch, length)
    tokens = patches // config["spatial_merge_size"] ** 2

    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        rows = [rng.choice(room or length, tokens, replace=False) for _ in range(batch)]
        return {
            **text(rng),
            "pixel_values": rng.standard_normal((batch, patches, *patch)).astype("float32"),
            "image_grid_thw": np.stack([rng.permutation(grid) for _ in rows]).astype("int32"),
            "vision_indices": np.stack(
                [row * length + np.sort(places) for row, places in enumerate(rows)]
            ).astype("int32"),
        }

    return make


# Images of one patch and one token, so that inputs can be cut to any size.
DOTS = vision_encoder(spatial_merge_size=1)
VIDEOS = vision_encoder(
    depth=1, num_heads=1, in_channels=1, patch_size=3, temporal_patch_size=1, spatial_merge_size=2
)
CASES = [
    # No two sizes are the same, or compiled code would take one for the other.
    Case(
        "qwen3.5-images",
        "Qwen3_5Backbone",
        {
            **SMALL,
            # Four layers behind an encoder amplify what rounds beyond the limits.
            "num_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "vision_encoder": DOTS,
        },
        with_images(6, 23, [[1, 1, 1]] * 7, DOTS, room=13),
    ),
    Case("qwen3.5", "Qwen3_5Backbone", SMALL, inputs(4, 9)),
    Case(
        "qwen3.5-odd",
        "Qwen3_5Backbone",
        {
            **SMALL,
            "num_layers": 2,
            "num_query_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 4,
            "layer_types": ["full_attention", "linear_attention"],
            "partial_rotary_factor": 1.0,
            "rope_max_wavelength": 20,
            "rope_scaling_factor": 3.0,
            "layer_norm_epsilon": 1e-2,
            "dropout": 0.2,
            "tie_word_embeddings": True,
            "linear_num_key_heads": 1,
            "linear_num_value_heads": 1,
            "linear_conv_kernel_dim": 2,
        },
        inputs(1, 1),
    ),
    # More than one chunk of 64.
    Case(
        "qwen3.5-long",
        "Qwen3_5Backbone",
        {
            **SMALL,
            "num_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_value_heads": 2,
            "mrope_section": [1, 0, 0],
        },
        inputs(2, 131),
    ),
    Case(
        "qwen3.5-videos",
        "Qwen3_5Backbone",
        {
            **SMALL,
            "num_layers": 1,
            "layer_types": ["full_attention"],
            "vision_encoder": VIDEOS,
        },
        with_images(3, 17, [[1, 4, 6], [3, 2, 2], [1, 2, 6]], VIDEOS),
    ),
]
