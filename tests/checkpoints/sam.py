from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from . import Checkpoint, Interface
from .vit_det import CONFIG as VISION
from .vit_det import PLAIN, normalized


def embeddings(model: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prompts = dict(given)
    image = model.get_image_embeddings(prompts.pop("pixel_values"))
    sparse, dense = model.get_prompt_embeddings(**prompts)
    positions = model.get_image_wide_positional_embeddings()
    return {"image": image, "sparse": sparse, "dense": dense, "positions": positions}


def channels_last(maps: torch.Tensor) -> torch.Tensor:
    return maps.permute(0, 2, 3, 1)


# transformers takes several prompts for each image, and then one box for each.
SAM = Interface(
    {
        "images": "pixel_values",
        "points": "input_points",
        "labels": "input_labels",
        "boxes": "input_boxes",
        "masks": "input_masks",
    },
    {
        "image_embeddings": ("image", None),
        "prompt_sparse_embeddings": ("sparse", None),
        "prompt_dense_embeddings": ("dense", None),
        "prompt_dense_positional_embeddings": ("positions", None),
    },
    forms={
        "images": normalized,
        "points": lambda points: points[:, None],
        "labels": lambda labels: labels[:, None],
        "boxes": lambda boxes: boxes.flatten(2),
        "masks": lambda masks: masks[..., 0],
        "image_embeddings": channels_last,
        "prompt_sparse_embeddings": lambda sparse: sparse[:, 0],
        "prompt_dense_embeddings": channels_last,
        "prompt_dense_positional_embeddings": channels_last,
    },
    call=embeddings,
)
PROMPTS = {"hidden_size": 8, "image_size": 16, "patch_size": 4, "mask_input_channels": 8}
DECODER = {
    "hidden_size": 8,
    "mlp_dim": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_multimask_outputs": 2,
    "iou_head_hidden_dim": 6,
    "layer_norm_eps": 1e-5,
}
CONFIG: dict[str, Any] = {
    "vision_config": {**VISION, "num_pos_feats": 4},
    "prompt_encoder_config": PROMPTS,
    "mask_decoder_config": DECODER,
}


def inputs(side: int, mask_side: int) -> Callable[[np.random.Generator], dict[str, np.ndarray]]:
    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {
            "images": rng.uniform(0, 1, (2, side, side, 3)).astype("float32"),
            "points": rng.uniform(0, side, (2, 4, 2)).astype("float32"),
            "labels": rng.integers(-1, 2, (2, 4)).astype("float32"),
            "boxes": rng.uniform(0, side, (2, 1, 2, 2)).astype("float32"),
            "masks": rng.normal(0, 1, (2, 1, mask_side, mask_side, 1)).astype("float32"),
        }

    return draw


CHECKPOINTS = [
    Checkpoint("sam", "SamModel", "SAMBackbone", CONFIG, SAM, inputs(16, 16), in_keras_hub=False),
    Checkpoint(
        "sam-odd",
        "SamModel",
        "SAMBackbone",
        {
            "vision_config": {**PLAIN, "num_pos_feats": 4},
            "prompt_encoder_config": {
                **PROMPTS,
                "image_size": 17,
                "patch_size": 3,
                "hidden_act": "relu",
                "mask_input_channels": 4,
            },
            "mask_decoder_config": {
                **DECODER,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
                "iou_head_depth": 4,
                "num_multimask_outputs": 1,
            },
        },
        SAM,
        inputs(17, 20),
        in_keras_hub=False,
    ),
]


def refused(part: str, message: str, **changes: Any) -> tuple[str, dict[str, Any], str]:
    return "sam", {part: {**CONFIG[part], **changes}}, message


REFUSED = [
    refused("vision_config", "num_pos_feats is 5; it must be half", num_pos_feats=5),
    refused("vision_config", "num_heads must be int", num_attention_heads="many"),
    refused("prompt_encoder_config", "mask_in_channels is 6", mask_input_channels=6),
    refused("mask_decoder_config", "downsample_rate is 4", attention_downsample_rate=4),
    refused("mask_decoder_config", "iou_head_depth is 1", iou_head_depth=1),
]
# Of facebook/sam-vit-base.
GENERIC = {"add_cross_attention": False, "is_decoder": False, "pruned_heads": {}, "top_k": 50}
OLD = [
    (
        "sam",
        {
            "vision_config": {**CONFIG["vision_config"], **GENERIC, "dropout": 0.0, "mlp_dim": 30},
            "prompt_encoder_config": {**PROMPTS, **GENERIC, "image_embedding_size": 4},
            "mask_decoder_config": {**DECODER, **GENERIC, "layer_norm_eps": 1e-6},
        },
    )
]
INEXPRESSIBLE = dict.fromkeys(
    ("sam", "sam-no-masks", "sam-no-points"), "The mask_decoder has no weights"
)
