from __future__ import annotations

from typing import Any

from . import Checkpoint, Interface
from .vit import images

IMAGES = Interface(
    {"images": "pixel_values"},
    {"output": ("last_hidden_state", None)},
    forms={"images": lambda images: images.permute(0, 3, 1, 2)},
)
CONFIG: dict[str, Any] = {
    "image_size": 24,
    "patch_size": 2,
    "embed_dim": 6,
    "depths": [2, 1],
    "num_heads": [2, 3],
    "window_size": 3,
}
CHECKPOINTS = [
    Checkpoint(
        "swin",
        "SwinForImageClassification",
        "SwinTransformerBackbone",
        CONFIG,
        IMAGES,
        images(2, 24, 24, 3),
    ),
    Checkpoint(
        "swin-oblong",
        "SwinModel",
        "SwinTransformerBackbone",
        {
            **CONFIG,
            "image_size": [16, 24],
            "num_channels": 1,
            "window_size": 4,
            "qkv_bias": False,
            "mlp_ratio": 2.5,
            "depths": [1, 3],
            "hidden_dropout_prob": 0.1,
        },
        IMAGES,
        images(1, 16, 24, 1),
        in_keras_hub=False,
    ),
]
REFUSED = [
    ("swin", {"use_absolute_embeddings": True}, "use_absolute_embeddings is True"),
    ("swin", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ("swin", {"patch_size": [2, 3]}, r"patch_size is \[2, 3\]"),
    ("swin", {"image_size": 32}, "window_size 3 does not divide stage 0 of 16 × 16"),
]
INEXPRESSIBLE = {
    "swin-filled": "window_size 2 does not divide|patch_size 3 does not divide",
    "swin-one": "window_size 4 does not divide stage 0",
}
HEADS = [("SwinForMaskedImageModeling", CONFIG)]
OLD = [("swin", {"path_norm": True})]
