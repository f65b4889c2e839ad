from __future__ import annotations

from typing import Any

from . import Checkpoint, Interface

IMAGES = Interface(
    {"pixel_values": "pixel_values"},
    {"output": ("last_hidden_state", None)},
    forms={"pixel_values": lambda images: images.permute(0, 3, 1, 2)},
)
CONFIG: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 12,
    "patch_size": 4,
    "num_register_tokens": 3,
}


def pixels(*shape: int) -> Any:
    return lambda rng: {"pixel_values": rng.uniform(0, 1, shape).astype("float32")}


CHECKPOINTS = [
    Checkpoint("dinov3", "DINOv3ViTModel", "DINOV3Backbone", CONFIG, IMAGES, pixels(2, 12, 12, 3)),
    Checkpoint(
        "dinov3-gated",
        "DINOv3ViTModel",
        "DINOV3Backbone",
        {
            **CONFIG,
            "image_size": [8, 13],
            "num_channels": 1,
            "num_register_tokens": 0,
            "use_gated_mlp": True,
            "hidden_act": "silu",
            "query_bias": False,
            "key_bias": True,
            "value_bias": False,
            "proj_bias": False,
            "mlp_bias": False,
            "layerscale_value": 0.5,
            "drop_path_rate": 0.1,
            "rope_theta": 30.0,
            "layer_norm_eps": 1e-3,
            "apply_layernorm": False,
        },
        IMAGES,
        pixels(1, 8, 13, 1),
        in_keras_hub=False,
    ),
]
REFUSED = [
    ("dinov3", {"patch_size": [4, 2]}, "patch_size is \\[4, 2\\]; only squares"),
    ("dinov3", {"hidden_act": "mish"}, "hidden_act is 'mish'; only gelu"),
]
INEXPRESSIBLE = {
    "dinov3-without": "use_mask_token is False",
}
HEADS = [("DINOv3ViTBackbone", {**CONFIG, "out_indices": [1, 2]})]
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov3_tiny": ("vit_tiny_patch16_dinov3_qkvb", {"img_size": 48}),
    "dinov3_small_plus": ("vit_small_plus_patch16_dinov3", {"img_size": [32, 48], "in_chans": 5}),
}
