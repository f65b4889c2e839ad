from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..oracle import Case
from . import vit_det


def part(name: str, folder: str, module: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "module": f"keras_hub.src.models.{folder}.{module}",
        "class_name": name,
        "config": config,
        "registered_name": f"keras_hub>{name}",
    }


def config(
    image_encoder: dict[str, Any], prompt_encoder: dict[str, Any], mask_decoder: dict[str, Any]
) -> dict[str, Any]:
    return {
        "image_encoder": part("ViTDetBackbone", "vit_det", "vit_det_backbone", image_encoder),
        "prompt_encoder": part("SAMPromptEncoder", "sam", "sam_prompt_encoder", prompt_encoder),
        "mask_decoder": part("SAMMaskDecoder", "sam", "sam_mask_decoder", mask_decoder),
    }


DECODER = {
    "hidden_size": 8,
    "num_layers": 2,
    "intermediate_dim": 5,
    "num_heads": 2,
    "embedding_dim": 8,
    "num_multimask_outputs": 2,
    "iou_head_depth": 3,
    "iou_head_hidden_dim": 6,
}


def tiny(side: int, rows: int, others: dict[str, Any], **encoder: Any) -> dict[str, Any]:
    prompts = {
        "hidden_size": 8,
        "image_embedding_size": (rows, rows),
        "input_image_size": (side, side),
        "mask_in_channels": 12,
        **others,
    }
    image = vit_det.config(side, num_output_channels=8, **encoder)
    return config(image, prompts, DECODER)


def inputs(
    batch: int, side: int, points: int, boxes: int, masks: int, mask_side: int
) -> Callable[[np.random.Generator], dict[str, np.ndarray]]:
    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {
            "images": rng.uniform(0, 1, (batch, side, side, 3)).astype("float32"),
            "points": rng.uniform(0, side, (batch, points, 2)).astype("float32"),
            "labels": rng.integers(-1, 3, (batch, points)).astype("float32"),
            "boxes": rng.uniform(0, side, (batch, boxes, 2, 2)).astype("float32"),
            "masks": rng.normal(0, 1, (batch, masks, mask_side, mask_side, 1)).astype("float32"),
        }

    return draw


def preset(layers: int, heads: int, dim: int, indices: list[int]) -> dict[str, Any]:
    image = {
        "hidden_size": dim,
        "num_layers": layers,
        "intermediate_dim": 4 * dim,
        "num_heads": heads,
        "global_attention_layer_indices": indices,
        "image_shape": (1024, 1024, 3),
    }
    decoder = {"hidden_size": 256, "num_layers": 2, "intermediate_dim": 2048, "num_heads": 8}
    return config(image, {}, decoder)


PRESETS = {
    "sam_base_sa1b": preset(12, 12, 768, [2, 5, 8, 11]),
    "sam_large_sa1b": preset(24, 16, 1024, [5, 11, 17, 23]),
    "sam_huge_sa1b": preset(32, 16, 1280, [7, 15, 23, 31]),
}
# Less the mask decoder, which has weights only in files; and the two larger ones are exchanged.
MISCOUNTED = {
    "sam_base_sa1b": 4_058_340,
    "sam_large_sa1b": 4_058_340 + 328_747_776,
    "sam_huge_sa1b": 4_058_340 - 328_747_776,
}
CASES = [
    Case("sam", "SAMBackbone", tiny(12, 3, {}), inputs(2, 12, 3, 2, 2, 12), mixed=False),
    Case("sam-no-masks", "SAMBackbone", tiny(12, 3, {}), inputs(1, 12, 2, 3, 0, 7), mixed=False),
    Case(
        "sam-no-points",
        "SAMBackbone",
        tiny(
            9,
            2,
            {"activation": "relu", "mask_in_channels": 9, "input_image_size": (7, 13)},
            patch_size=4,
            use_abs_pos=False,
        ),
        inputs(2, 9, 0, 2, 3, 11),
        mixed=False,
    ),
]
