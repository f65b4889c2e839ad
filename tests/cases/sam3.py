from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..oracle import Case
from . import common

MODULES = {
    "vision_encoder": "SAM3VisionEncoder",
    "text_encoder": "SAM3TextEncoder",
    "geometry_encoder": "SAM3GeometryEncoder",
    "detr_encoder": "SAM3DetrEncoder",
    "detr_decoder": "SAM3DetrDecoder",
    "mask_decoder": "SAM3MaskDecoder",
}
VOCABULARY = 23


def config(**parts: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {
            "module": f"keras_hub.src.models.sam3.sam3_{name}",
            "class_name": MODULES[name],
            "config": given,
            "registered_name": f"keras_hub>{MODULES[name]}",
        }
        for name, given in parts.items()
    }


def tiny(height: int, width: int, dim: int = 8, **changes: dict[str, Any]) -> dict[str, Any]:
    """Of patches of 5 pixels; what `changes` has for a part, it has in place of what is here."""
    image = {"image_shape": (height, width, 1), "patch_size": 5}
    block = {"hidden_dim": dim, "intermediate_dim": 7, "num_heads": 2, "num_layers": 1}
    parts: dict[str, dict[str, Any]] = {
        "vision_encoder": {
            **image,
            "num_layers": 2,
            "hidden_dim": 8,
            "intermediate_dim": 9,
            "num_heads": 2,
            "fpn_hidden_dim": dim,
            "fpn_scale_factors": [4.0, 2.0, 1.0, 0.5],
            "pretrain_image_shape": (11, 16, 3),
            "window_size": 2,
            "global_attn_indexes": [1],
        },
        "text_encoder": {
            "vocabulary_size": VOCABULARY,
            "embedding_dim": 6,
            "hidden_dim": 6,
            "num_layers": 1,
            "num_heads": 2,
            "intermediate_dim": 11,
            "max_sequence_length": 12,
        },
        "geometry_encoder": {**block, "roi_size": 2},
        "detr_encoder": {**block},
        "detr_decoder": {**image, **block, "num_layers": 2, "num_queries": 5},
        "mask_decoder": {"num_upsampling_stages": 3, "hidden_dim": dim, "num_heads": 2},
    }
    return config(**{name: {**part, **changes.get(name, {})} for name, part in parts.items()})


def inputs(
    batch: int, height: int, width: int, length: int, boxes: int, channels: int = 1
) -> Callable[[np.random.Generator], dict[str, np.ndarray]]:
    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        images = np.broadcast_to(np.arange(batch)[:, None, None], (batch, boxes, 1))
        # Within the image: what is beside it KerasHub sees otherwise on TensorFlow.
        start, end = np.sort(rng.uniform(0, 1, (2, batch, boxes, 2)), axis=0)
        return {
            "pixel_values": rng.normal(0, 1, (batch, height, width, channels)).astype("float32"),
            "token_ids": common.ids(rng, batch, length, VOCABULARY),
            "padding_mask": common.padding(rng, batch, length),
            "boxes": np.concatenate([images, (start + end) / 2, end - start], axis=-1).astype(
                "float32"
            ),
            # KerasHub mixes up images of other labels than each other's.
            "box_labels": np.tile(1 - np.arange(boxes, dtype="int32") % 2, (batch, 1)),
        }

    return draw


CASES = [
    Case(
        "sam3",
        "SAM3PromptableConceptBackbone",
        tiny(21, 22),
        inputs(3, 21, 22, 6, 2),
        most_draws=16,
    ),
    Case(
        "sam3-boxes",
        "SAM3PromptableConceptBackbone",
        tiny(
            11,
            24,
            16,
            vision_encoder={
                "image_shape": (11, 24, 3),
                "num_heads": 1,
                "fpn_scale_factors": [0.5, 2.0, 1.0, 4.0, 1.0, 2.0],
                "window_size": 0,
                "rope_theta": 77.0,
                "global_attn_indexes": [0],
                "hidden_activation": "silu",
                "layer_norm_epsilon": 1e-3,
                "hidden_dropout_rate": 0.3,
                "attention_dropout_rate": 0.2,
            },
            text_encoder={
                "num_layers": 2,
                "num_heads": 4,
                "intermediate_activation": "relu",
                "layer_norm_epsilon": 1e-3,
            },
            geometry_encoder={
                "num_layers": 2,
                "num_heads": 4,
                "roi_size": 3,
                "hidden_activation": "gelu",
                "dropout_rate": 0.1,
                "layer_norm_epsilon": 1e-3,
            },
            detr_encoder={
                "num_layers": 2,
                "num_heads": 1,
                "hidden_activation": "silu",
                "dropout_rate": 0.2,
                "layer_norm_epsilon": 1e-4,
            },
            detr_decoder={
                "num_layers": 3,
                "num_heads": 8,
                "num_queries": 3,
                "hidden_activation": "tanh",
                "dropout_rate": 0.3,
                "layer_norm_epsilon": 1e-4,
            },
            mask_decoder={
                "num_upsampling_stages": 4,
                "num_heads": 4,
                "dropout_rate": 0.4,
                "layer_norm_epsilon": 1e-2,
            },
        ),
        inputs(1, 11, 24, 1, 4, 3),
        most_draws=16,
    ),
    Case(
        "sam3-text",
        "SAM3PromptableConceptBackbone",
        tiny(
            10,
            10,
            vision_encoder={
                "pretrain_image_shape": (14, 14, 3),
                "fpn_scale_factors": [4.0, 1.0, 2.0],
                "window_size": 1,
                "num_layers": 1,
            },
            mask_decoder={"num_upsampling_stages": 1},
        ),
        inputs(1, 10, 10, 9, 0),
        most_draws=16,
    ),
]

IMAGE = {"image_shape": (1008, 1008, 3), "patch_size": 14}
BLOCK = {"hidden_dim": 256, "intermediate_dim": 2048, "num_heads": 8}
PRESETS = {
    "sam3_pcs": config(
        vision_encoder={
            **IMAGE,
            "num_layers": 32,
            "hidden_dim": 1024,
            "intermediate_dim": 4736,
            "num_heads": 16,
            "fpn_hidden_dim": 256,
            "fpn_scale_factors": [4.0, 2.0, 1.0, 0.5],
            "window_size": 24,
            "global_attn_indexes": [7, 15, 23, 31],
        },
        text_encoder={
            "vocabulary_size": 49408,
            "embedding_dim": 1024,
            "hidden_dim": 1024,
            "num_layers": 24,
            "num_heads": 16,
            "intermediate_dim": 4096,
        },
        geometry_encoder={**BLOCK, "num_layers": 3, "roi_size": 7},
        detr_encoder={**BLOCK, "num_layers": 6, "dropout_rate": 0.1},
        detr_decoder={**IMAGE, **BLOCK, "num_layers": 6, "num_queries": 200, "dropout_rate": 0.1},
        mask_decoder={"num_upsampling_stages": 3, "hidden_dim": 256, "num_heads": 8},
    )
}
# The registry says 30 million.
MISCOUNTED = {"sam3_pcs": 30_000_000 - 849_288_502}
