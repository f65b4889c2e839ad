from __future__ import annotations

from typing import Any

# Folder → architecture of timm and its arguments.
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("resnet18", {}),
    "resnet26": ("resnet26", {"num_classes": 7}),
    "resnet26d": ("resnet26d", {"in_chans": 5}),
    "resnetv2_34": ("resnetv2_34", {"drop_path_rate": 0.1}),
    "resnetv2_50": ("resnetv2_50", {}),
}
TIMM_IN_KERAS_HUB = {"resnet18", "resnet26", "resnetv2_50"}
