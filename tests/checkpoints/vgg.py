from __future__ import annotations

from typing import Any

# At the default ratio of widths the heads have a hundred million weights.
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "vgg11": ("vgg11", {"num_classes": 7, "mlp_ratio": 0.001}),
    "vgg13": ("vgg13", {"in_chans": 5, "num_classes": 0, "mlp_ratio": 0.001}),
}
TIMM_IN_KERAS_HUB = {"vgg11"}
