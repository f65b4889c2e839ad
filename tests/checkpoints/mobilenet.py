from __future__ import annotations

from typing import Any

TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "mobilenetv3_small_050": ("mobilenetv3_small_050", {"num_classes": 7}),
    "mobilenetv3_small_075": ("mobilenetv3_small_075", {"in_chans": 5}),
    "mobilenetv3_large_100": ("mobilenetv3_large_100", {}),
}
