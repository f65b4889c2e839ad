from __future__ import annotations

from typing import Any

import torch

TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "hgnetv2_b0": ("hgnetv2_b0", {"num_classes": 7}),
    "hgnetv2_b4": ("hgnetv2_b4", {"in_chans": 5, "num_classes": 0, "use_lab": True}),
}


def timm_features(model: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    found = {"stem": model.stem(images)}
    for i, stage in enumerate(model.stages, start=1):
        found[f"stage{i}"] = stage(list(found.values())[-1])
    return found
