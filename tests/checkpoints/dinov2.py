from __future__ import annotations

from typing import Any

from . import Checkpoint
from .vit import IMAGES, images

CONFIG: dict[str, Any] = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "mlp_ratio": 2,
    "image_size": 8,
    "patch_size": 4,
}
CHECKPOINTS = [
    Checkpoint("dinov2", "Dinov2Model", "DINOV2Backbone", CONFIG, IMAGES, images(2, 8, 8, 3)),
    Checkpoint(
        "dinov2-classifier",
        "Dinov2ForImageClassification",
        "DINOV2Backbone",
        {
            **CONFIG,
            "num_channels": 1,
            "use_swiglu_ffn": True,
            "use_mask_token": False,
            "apply_layernorm": False,
            "layerscale_value": 0.5,
            "drop_path_rate": 0.1,
        },
        IMAGES,
        images(1, 8, 8, 1),
        in_keras_hub=False,
    ),
    Checkpoint(
        "dinov2-registers",
        "Dinov2WithRegistersModel",
        "DINOV2Backbone",
        {**CONFIG, "num_register_tokens": 3},
        IMAGES,
        images(1, 8, 8, 3),
    ),
]
REFUSED = [
    ("dinov2", {"qkv_bias": False}, "qkv_bias is False; only True"),
    ("dinov2", {"layer_norm_eps": 1e-3}, "layer_norm_eps is 0.001"),
]
INEXPRESSIBLE = {
    "dinov2": "no multiple of hidden_dim",
    "dinov2-registers": "no multiple of hidden_dim",
    "dinov2-channels-first": "no multiple of hidden_dim",
}
HEADS = [
    ("Dinov2WithRegistersForImageClassification", CONFIG),
    ("Dinov2Backbone", {**CONFIG, "out_indices": [1, 2]}),
]
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2_small": ("vit_small_patch14_dinov2", {"img_size": 42}),
    "dinov2_small_reg4": ("vit_small_patch14_reg4_dinov2", {"img_size": 28, "in_chans": 5}),
}
