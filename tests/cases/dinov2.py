from __future__ import annotations

from typing import Any

from ..oracle import Case
from .vit import images


def config(image: tuple[int, ...], positions: tuple[int, ...], **others: Any) -> dict[str, Any]:
    return {
        "patch_size": 4,
        "num_layers": 2,
        "hidden_dim": 12,
        "num_heads": 3,
        "intermediate_dim": 20,
        "image_shape": image,
        "position_embedding_shape": positions,
        **others,
    }


def preset(dim: int, layers: int, heads: int, registers: int) -> dict[str, Any]:
    return {
        "patch_size": 14,
        "num_layers": layers,
        "hidden_dim": dim,
        "num_heads": heads,
        "intermediate_dim": 4 * dim,
        "num_register_tokens": registers,
        "use_swiglu_ffn": dim == 1536,
        "image_shape": (518, 518, 3),
        "position_embedding_shape": (518, 518),
        "antialias_in_interpolation": registers > 0,
    }


SIZES = {
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "giant": (1536, 40, 24),
}
PRESETS = {
    f"dinov2_{kind}{size}": preset(*numbers, registers)
    for kind, registers in (("", 0), ("with_registers_", 4))
    for size, numbers in SIZES.items()
}
CASES = [
    Case("dinov2", "DINOV2Backbone", config((8, 8, 3), (8, 8)), images(2, 8, 8, 3)),
    Case(
        "dinov2-registers",
        "DINOV2Backbone",
        config(
            (15, 15, 1),
            (28, 28, 1),
            patch_size=5,
            num_heads=5,
            num_register_tokens=3,
            use_mask_token=False,
            use_swiglu_ffn=True,
            layer_scale_init_value=0.1,
            dropout_rate=0.1,
            drop_path_rate=0.2,
            antialias_in_interpolation=True,
            name="vision",
        ),
        images(1, 15, 15, 1),
    ),
    Case(
        "dinov2-channels-first",
        "DINOV2Backbone",
        config(
            (3, 18, 18),
            (3, 9, 9),
            apply_layernorm=True,
            num_layers=1,
            data_format="channels_first",
        ),
        images(3, 3, 18, 18),
    ),
]
