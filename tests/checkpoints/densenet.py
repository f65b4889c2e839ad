from __future__ import annotations

from typing import Any

import torch

TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "densenet121": ("densenet121", {"num_classes": 7}),
    "densenet169": ("densenet169", {"in_chans": 5, "num_classes": 0}),
}
TIMM_IN_KERAS_HUB = {"densenet121"}


def timm_features(model: Any, images: torch.Tensor) -> torch.Tensor:
    """With the stem padded as in KerasHub; timm has as much before an axis as behind it."""

    def padded(x: torch.Tensor, kernel_size: int) -> torch.Tensor:
        sizes = x.shape[3], x.shape[2]
        around = [(size - 1) // 2 * 2 + kernel_size - size for size in sizes]
        return torch.nn.functional.pad(x, [n + i >> 1 for n in around for i in (0, 1)])

    conv, norm, pool, *rest = model.features
    conv.padding = pool.padding = (0, 0)
    x = pool(padded(norm(conv(padded(images, 7))), 3))
    for layer in rest:
        x = layer(x)
    return x
