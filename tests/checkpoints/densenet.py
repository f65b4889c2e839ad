from __future__ import annotations

from typing import Any

TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "densenet121": ("densenet121", {"num_classes": 7}),
    "densenet169": ("densenet169", {"in_chans": 5, "num_classes": 0}),
}
