from __future__ import annotations

from typing import Any

import torch
import transformers

from . import Checkpoint, Interface
from .dinov2 import CONFIG as ENCODER
from .vit import images


def depths(model: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Before the activation that follows there."""
    found: dict[str, torch.Tensor] = {}
    hook = model.head.conv3.register_forward_hook(
        lambda module, inputs, output: found.update(depths=output)
    )
    model(**given)
    hook.remove()
    return found


DEPTHS = Interface(
    {"images": "pixel_values"},
    {"output": ("depths", None)},
    forms={
        "images": lambda images: images.permute(0, 3, 1, 2),
        "output": lambda output: output.permute(0, 2, 3, 1),
    },
    auto=transformers.AutoModelForDepthEstimation,
    call=depths,
)
BACKBONE: dict[str, Any] = {
    **ENCODER,
    "model_type": "dinov2",
    "num_hidden_layers": 3,
    "image_size": 12,
    "out_features": ["stage1", "stage2", "stage3"],
    "reshape_hidden_states": False,
}
CONFIG: dict[str, Any] = {
    "backbone_config": BACKBONE,
    "patch_size": 4,
    "reassemble_hidden_size": 12,
    "reassemble_factors": [2, 1, 0.5],
    "neck_hidden_sizes": [4, 5, 6],
    "fusion_hidden_size": 6,
    "head_hidden_size": 3,
}
CHECKPOINTS = [
    Checkpoint(
        "depth-anything",
        "DepthAnythingForDepthEstimation",
        "DepthAnythingBackbone",
        CONFIG,
        DEPTHS,
        images(2, 12, 12, 3),
        in_keras_hub=False,
    ),
    Checkpoint(
        "depth-anything-metric",
        "DepthAnythingForDepthEstimation",
        "DepthAnythingBackbone",
        {
            **CONFIG,
            "backbone_config": {
                **BACKBONE,
                "num_channels": 1,
                "image_size": 8,
                "use_swiglu_ffn": True,
                "apply_layernorm": False,
                "use_mask_token": False,
                "out_features": ["stem", "stage2"],
            },
            "reassemble_factors": [4, 0.25],
            "neck_hidden_sizes": [4, 5],
            "head_in_index": 0,
            "depth_estimation_type": "metric",
            "max_depth": 20,
        },
        DEPTHS,
        images(1, 8, 8, 1),
        in_keras_hub=False,
    ),
]


def refused(message: str, **changes: Any) -> tuple[str, dict[str, Any], str]:
    return "depth-anything", {"backbone_config": {**BACKBONE, **changes}}, message


REFUSED = [
    ("depth-anything", {"patch_size": 2}, "patch_size is 2 and backbone_config.patch_size 4"),
    ("depth-anything", {"reassemble_hidden_size": 8}, "reassemble_hidden_size is 8 and"),
    refused("reshape_hidden_states is True", reshape_hidden_states=True),
    refused("feature_keys=.* must be some of", out_features=["stage1", "stage2", "stage7"]),
    refused("model_type is 'dinov2_with_registers'", model_type="dinov2_with_registers"),
]
INEXPRESSIBLE = {
    "depth-anything": "no multiple of hidden_dim",
    "depth-anything-keys": "no multiple of hidden_dim|num_register_tokens",
}
