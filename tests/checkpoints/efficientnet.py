from __future__ import annotations

from typing import Any

TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "efficientnet_b0": ("efficientnet_b0", {}),
    "tf_efficientnet_b1": ("tf_efficientnet_b1", {"num_classes": 7}),
    "efficientnet_lite3": ("efficientnet_lite3", {"in_chans": 5}),
    "efficientnet_es": ("efficientnet_es", {}),
    "efficientnetv2_rw_t": ("efficientnetv2_rw_t", {"in_chans": 5}),
    "efficientnetv2_rw_s": ("efficientnetv2_rw_s", {"num_classes": 0}),
}
TIMM_IN_KERAS_HUB = ("efficientnet_b0",)
