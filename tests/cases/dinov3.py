from __future__ import annotations

from typing import Any

from ..oracle import Case
from .vit import images


def config(*image_shape: int, **others: Any) -> dict[str, Any]:
    return {
        "patch_size": 4,
        "num_layers": 2,
        "hidden_dim": 24,
        "num_heads": 3,
        "intermediate_dim": 20,
        "image_shape": image_shape,
        **others,
    }


def preset(dim: int, layers: int, heads: int, inner: int, **others: Any) -> dict[str, Any]:
    return {
        "patch_size": 16,
        "num_layers": layers,
        "hidden_dim": dim,
        "num_heads": heads,
        "intermediate_dim": inner,
        "use_key_bias": False,
        "image_shape": (224, 224, 3),
        **others,
    }


GATED = {"hidden_activation": "silu", "use_gated_mlp": True}
SIZES = {
    "small": preset(384, 12, 6, 1536),
    "small_plus": preset(384, 12, 6, 1536, **GATED),
    "base": preset(768, 12, 12, 3072),
    "large": preset(1024, 24, 16, 4096),
    "huge_plus": preset(1280, 32, 20, 5120, **GATED),
    "7b": preset(4096, 40, 32, 8192, **GATED, use_query_bias=False, use_value_bias=False),
}
PRESETS = {
    **{f"dinov3_vit_{size}_lvd1689m": arguments for size, arguments in SIZES.items()},
    **{f"dinov3_vit_{size}_sat493m": SIZES[size] for size in ("large", "7b")},
}
# The registry's numbers are rounded.
MISCOUNTED = {
    "dinov3_vit_small_lvd1689m": 3456,
    "dinov3_vit_small_plus_lvd1689m": 307136,
    "dinov3_vit_base_lvd1689m": 339584,
    "dinov3_vit_large_lvd1689m": -3129600,
    "dinov3_vit_huge_plus_lvd1689m": -592640,
    "dinov3_vit_7b_lvd1689m": -16035072,
    "dinov3_vit_large_sat493m": -3129600,
    "dinov3_vit_7b_sat493m": -16035072,
}
CASES = [
    Case("dinov3", "DINOV3Backbone", config(12, 20, 3), images(2, 12, 20, 3)),
    Case(
        "dinov3-without",
        "DINOV3Backbone",
        config(
            15,
            11,
            1,
            patch_size=5,
            num_heads=2,
            num_register_tokens=0,
            use_mask_token=False,
            hidden_activation="silu",
            use_gated_mlp=True,
            use_query_bias=False,
            use_key_bias=False,
            use_value_bias=False,
            use_proj_bias=False,
            use_mlp_bias=False,
            attention_dropout=0.1,
            drop_path_rate=0.2,
            layer_norm_eps=1e-3,
            layer_scale_init_value=0.1,
            rope_theta=30.0,
            name="vision",
        ),
        images(1, 15, 11, 1),
    ),
    Case(
        "dinov3-one",
        "DINOV3Backbone",
        config(
            6,
            9,
            2,
            num_layers=1,
            num_register_tokens=1,
            hidden_activation="relu",
            apply_layernorm=True,
            use_key_bias=False,
        ),
        images(3, 6, 9, 2),
    ),
]
