from __future__ import annotations

from typing import Any

TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "cspresnet50": ("cspresnet50", {"in_chans": 5, "num_classes": 0}),
    "cspresnext50": ("cspresnext50", {}),
    "cspdarknet53": ("cspdarknet53", {"num_classes": 7}),
    "darknet17": ("darknet17", {"num_classes": 7}),
    "darknetaa53": ("darknetaa53", {"drop_path_rate": 0.1}),
}
TIMM_IN_KERAS_HUB = {"cspresnext50", "cspdarknet53"}
