from __future__ import annotations

from typing import Any

import numpy as np

from ..oracle import Case
from .clip import INDEXED, both, text, texts, tower, towers, vision
from .vit import images


def config(seen: dict[str, Any], read: dict[str, Any], projection_dim: int) -> dict[str, Any]:
    return {
        "vision_encoder": tower("metaclip_2", "MetaCLIP2VisionEncoder", "vision", **seen),
        "text_encoder": tower("metaclip_2", "MetaCLIP2TextEncoder", "text", **read),
        "projection_dim": projection_dim,
    }


def ended(image_shape: tuple[int, ...], batch: int, length: int) -> Any:
    """Texts with the token that ends them once, twice and not at all."""

    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        inputs = both(image_shape, batch, length)(rng)
        ids = inputs["token_ids"]
        ids[ids == 2] = 3
        ids[:-1, length // 2] = ids[0, length - 1] = 2
        return inputs

    return make


def preset(size: str, side: int, activation: str = "gelu") -> dict[str, Any]:
    return config(*towers(size, 14, side, 901629, activation))


PRESETS = {
    "metaclip_2_vit_huge_patch14_224": preset("h", 224, "quick_gelu"),
    "metaclip_2_vit_huge_patch14_378": preset("h", 378),
    "metaclip_2_vit_giant_patch14_224": preset("bigg", 224),
    "metaclip_2_vit_giant_patch14_378": preset("bigg", 378),
}
CASES = [
    Case(
        "metaclip2",
        "MetaCLIP2Backbone",
        config(vision((8, 8, 3)), text(num_layers=1), 7),
        ended((4, 8, 8, 3), 6, 9),
    ),
    Case(
        "metaclip2-named",
        "MetaCLIP2Backbone",
        config(
            vision((11, 11, 1), num_layers=1, intermediate_activation="gelu", name="sight"),
            text(9, num_heads=3, intermediate_activation="relu", name="reading"),
            13,
        ),
        ended((1, 11, 11, 1), 3, 1),
    ),
    Case(
        "metaclip2-vision",
        "MetaCLIP2VisionEncoder",
        vision((8, 8, 3), num_layers=1),
        images(2, 8, 8, 3),
    ),
    Case(
        "metaclip2-vision-index",
        "MetaCLIP2VisionEncoder",
        vision((5, 9, 9), data_format="channels_first", name="sight", **INDEXED),
        images(1, 5, 9, 9),
    ),
    Case("metaclip2-text", "MetaCLIP2TextEncoder", text(num_layers=1), texts(3, 9)),
    Case(
        "metaclip2-text-index",
        "MetaCLIP2TextEncoder",
        text(12, num_heads=4, max_sequence_length=6, name="reading", **INDEXED),
        texts(2, 6),
    ),
]
