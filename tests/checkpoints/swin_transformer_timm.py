from __future__ import annotations

from typing import Any

import torch

TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "swin_tiny": (
        "swin_tiny_patch4_window7_224",
        {
            "img_size": 32,
            "window_size": 2,
            "embed_dim": 12,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "num_classes": 3,
        },
    ),
}


def timm_features(model: Any, images: torch.Tensor) -> torch.Tensor:
    features: torch.Tensor = model.forward_features(images)
    return features.flatten(1, 2)
