from __future__ import annotations

from typing import Any

import torch

from . import Checkpoint, Interface
from .vit import images

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


def normalized(images: torch.Tensor) -> torch.Tensor:
    """As transformers takes them; our model does it itself."""
    return ((images - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).permute(0, 3, 1, 2)


IMAGES = Interface(
    {"images": "pixel_values"},
    {"output": ("last_hidden_state", None)},
    forms={"images": normalized, "output": lambda output: output.permute(0, 2, 3, 1)},
)
CONFIG: dict[str, Any] = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "mlp_ratio": 2.5,
    "image_size": 16,
    "patch_size": 4,
    "output_channels": 8,
    "window_size": 3,
    "global_attn_indexes": [1],
}
PLAIN = {
    **CONFIG,
    "image_size": 17,
    "patch_size": 3,
    "mlp_dim": 7,
    "qkv_bias": False,
    "use_abs_pos": False,
    "use_rel_pos": False,
}
CHECKPOINTS = [
    Checkpoint(
        "sam-vision",
        "SamVisionModel",
        "ViTDetBackbone",
        CONFIG,
        IMAGES,
        images(2, 16, 16, 3),
        in_keras_hub=False,
    ),
    Checkpoint(
        "sam-vision-plain",
        "SamVisionModel",
        "ViTDetBackbone",
        PLAIN,
        IMAGES,
        images(1, 17, 17, 3),
        in_keras_hub=False,
    ),
]
REFUSED = [
    ("sam-vision", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ("sam-vision", {"image_size": [16, 8]}, r"image_size is \[16, 8\]; only squares"),
    ("sam-vision", {"num_channels": 1}, "num_channels is 1"),
]
INEXPRESSIBLE = {"vit_det-gray": "one channel for all three"}
