from __future__ import annotations

from typing import Any

import numpy as np

from ..oracle import Case
from .common import ids
from .vit import images


def tower(family: str, class_name: str, part: str, **config: Any) -> dict[str, Any]:
    return {
        "module": f"keras_hub.src.models.{family}.{family}_{part}_encoder",
        "class_name": class_name,
        "config": config,
        "registered_name": f"keras_hub>{class_name}",
    }


def vision(image_shape: tuple[int, ...], **others: Any) -> dict[str, Any]:
    return {
        "patch_size": 4,
        "hidden_dim": 12,
        "num_layers": 2,
        "num_heads": 3,
        "intermediate_dim": 20,
        "image_shape": list(image_shape),
        **others,
    }


def text(dim: int = 10, **others: Any) -> dict[str, Any]:
    return {
        "vocabulary_size": 23,
        "embedding_dim": dim,
        "hidden_dim": dim,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_dim": 14,
        "max_sequence_length": 18,
        **others,
    }


def config(seen: dict[str, Any], read: dict[str, Any], projection_dim: int) -> dict[str, Any]:
    return {
        "vision_encoder": tower("clip", "CLIPVisionEncoder", "vision", **seen),
        "text_encoder": tower("clip", "CLIPTextEncoder", "text", **read),
        "projection_dim": projection_dim,
    }


def texts(batch: int, length: int, vocabulary: int = 23) -> Any:
    return lambda rng: {"token_ids": ids(rng, batch, length, vocabulary)}


def both(image_shape: tuple[int, ...], batch: int, length: int) -> Any:
    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"images": images(*image_shape)(rng), **texts(batch, length)(rng)}

    return make


# Width, blocks and heads of both towers.
SIZES = {
    "base": ((768, 12, 12), (512, 12, 8)),
    "large": ((1024, 24, 16), (768, 12, 12)),
    "h": ((1280, 32, 16), (1024, 24, 16)),
    "g": ((1408, 40, 16), (1024, 24, 16)),
    "bigg": ((1664, 48, 16), (1280, 32, 20)),
}
# Where it is not four times the width.
INNER = {1408: 6144, 1664: 8192}


def towers(
    size: str, patch: int, side: int, vocabulary: int, activation: str
) -> tuple[dict[str, Any], dict[str, Any], int]:
    sizes = (
        {
            "hidden_dim": dim,
            "num_layers": layers,
            "num_heads": heads,
            "intermediate_dim": INNER.get(dim, 4 * dim),
            "intermediate_activation": activation,
        }
        for dim, layers, heads in SIZES[size]
    )
    seen, read = sizes
    return (
        {**seen, "patch_size": patch, "image_shape": [side, side, 3]},
        {**read, "vocabulary_size": vocabulary, "embedding_dim": read["hidden_dim"]},
        read["hidden_dim"],
    )


def preset(size: str, patch: int, side: int = 224, activation: str = "quick_gelu") -> Any:
    return config(*towers(size, patch, side, 49408, activation))


PRESETS = {
    "clip_vit_base_patch16": preset("base", 16),
    "clip_vit_base_patch32": preset("base", 32),
    "clip_vit_large_patch14": preset("large", 14),
    "clip_vit_large_patch14_336": preset("large", 14, 336),
    "clip_vit_b_32_laion2b_s34b_b79k": preset("base", 32, activation="gelu"),
    "clip_vit_h_14_laion2b_s32b_b79k": preset("h", 14, activation="gelu"),
    "clip_vit_g_14_laion2b_s12b_b42k": preset("g", 14, activation="gelu"),
    "clip_vit_bigg_14_laion2b_39b_b160k": preset("bigg", 14, activation="gelu"),
}
INDEXED = {"num_layers": 3, "intermediate_activation": "gelu", "intermediate_output_index": -2}
CASES = [
    Case(
        "clip",
        "CLIPBackbone",
        config(vision((8, 8, 3)), text(num_layers=1), 7),
        both((4, 8, 8, 3), 6, 9),
    ),
    Case(
        "clip-named",
        "CLIPBackbone",
        config(
            vision((11, 11, 1), num_layers=1, intermediate_activation="gelu", name="sight"),
            text(9, num_heads=3, intermediate_activation="relu", name="reading"),
            13,
        ),
        both((1, 11, 11, 1), 3, 1),
    ),
    Case("clip-vision", "CLIPVisionEncoder", vision((8, 8, 3), num_layers=1), images(2, 8, 8, 3)),
    Case(
        "clip-vision-index",
        "CLIPVisionEncoder",
        vision((5, 9, 9), data_format="channels_first", name="sight", **INDEXED),
        images(1, 5, 9, 9),
    ),
    Case("clip-text", "CLIPTextEncoder", text(num_layers=1), texts(3, 9)),
    Case(
        "clip-text-index",
        "CLIPTextEncoder",
        text(12, num_heads=4, max_sequence_length=6, name="clip_l", **INDEXED),
        texts(2, 6),
    ),
]
