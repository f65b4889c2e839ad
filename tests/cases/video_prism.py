from __future__ import annotations

from typing import Any

import numpy as np

from ..oracle import Case
from .common import ids, padding


def config(frames: int, *image_shape: int, **others: Any) -> dict[str, Any]:
    return {
        "num_frames": frames,
        "patch_size": 4,
        "hidden_dim": 12,
        "intermediate_dim": 14,
        "num_heads": 3,
        "num_spatial_layers": 2,
        "num_temporal_layers": 1,
        "num_auxiliary_layers": 1,
        "image_shape": image_shape,
        **others,
    }


def videos(*shape: int) -> Any:
    return lambda rng: rng.uniform(0, 1, shape).astype("float32")


def with_text(batch: int, length: int, *shape: int) -> Any:
    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {
            "pixel_values": videos(batch, *shape)(rng),
            "token_ids": ids(rng, batch, length, 19),
            "padding_mask": padding(rng, batch, length),
        }

    return make


def preset(*, layers: int, heads: int, dim: int, **others: Any) -> dict[str, Any]:
    return {
        "patch_size": 18,
        "hidden_dim": dim,
        "intermediate_dim": 4 * dim,
        "num_heads": heads,
        "num_spatial_layers": layers,
        "num_temporal_layers": 4,
        "num_auxiliary_layers": 0,
        "attention_logit_soft_cap": 50.0,
        **others,
    }


BASE = {"layers": 12, "heads": 12, "dim": 768, "num_frames": 16}
LARGE = {"layers": 24, "heads": 16, "dim": 1024, "num_frames": 8}
TEXT = {"vocabulary_size": 32000, "num_text_layers": 12, "num_auxiliary_layers": 2}
PRESETS = {
    "videoprism_public_v1_base": preset(**BASE),
    "videoprism_public_v1_large": preset(**LARGE),
    "videoprism_lvt_public_v1_base": preset(**BASE, **TEXT),
    "videoprism_lvt_public_v1_large": preset(**LARGE, **TEXT),
}
# The registry has millions.
MISCOUNTED = {
    "videoprism_public_v1_base": 114_000_000 - 114_365_184,
    "videoprism_public_v1_large": 354_000_000 - 353_965_056,
    "videoprism_lvt_public_v1_base": 248_000_000 - 247_624_960,
    "videoprism_lvt_public_v1_large": 580_000_000 - 579_879_168,
}
CASES = [
    Case(
        "videoprism-text",
        "VideoPrismBackbone",
        config(5, 8, 12, 3, vocabulary_size=19, num_text_layers=2),
        with_text(6, 9, 5, 8, 12, 3),
    ),
    Case("videoprism", "VideoPrismBackbone", config(3, 8, 12, 1), videos(2, 3, 8, 12, 1)),
    Case(
        "videoprism-text-capped",
        "VideoPrismBackbone",
        config(
            2,
            3,
            6,
            3,
            patch_size=3,
            hidden_dim=13,
            num_heads=4,
            num_auxiliary_layers=0,
            vocabulary_size=19,
            num_text_layers=1,
            dropout_rate=0.2,
            attention_dropout_rate=0.1,
            attention_logit_soft_cap=1.5,
            layer_norm_epsilon=1e-3,
        ),
        with_text(5, 7, 2, 3, 6, 3),
    ),
    Case(
        "videoprism-channels-first",
        "VideoPrismBackbone",
        config(
            1,
            3,
            10,
            5,
            patch_size=5,
            num_spatial_layers=1,
            attention_logit_soft_cap=2.0,
            data_format="channels_first",
        ),
        videos(3, 1, 3, 10, 5),
    ),
]
