from __future__ import annotations

from typing import Any

from . import Checkpoint, Interface

IMAGES = Interface(
    {"images": "pixel_values"},
    {"output": ("last_hidden_state", None)},
    unmatched=("pooler.dense.weight", "pooler.dense.bias"),
    forms={"images": lambda images: images.permute(0, 3, 1, 2)},
)
CONFIG = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 8,
    "patch_size": 4,
    "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.1,
}


def images(*shape: int) -> Any:
    return lambda rng: {"images": rng.uniform(0, 1, shape).astype("float32")}


CHECKPOINTS = [
    # KerasHub knows the names of classifiers alone, and one epsilon.
    Checkpoint(
        "vit",
        "ViTForImageClassification",
        "ViTBackbone",
        {**CONFIG, "layer_norm_eps": 1e-6},
        IMAGES,
        images(2, 8, 8, 3),
    ),
    Checkpoint(
        "vit-oblong",
        "ViTModel",
        "ViTBackbone",
        {**CONFIG, "image_size": [8, 12], "patch_size": [4, 3], "num_channels": 1},
        IMAGES,
        images(1, 8, 12, 1),
        in_keras_hub=False,
    ),
]
REFUSED = [
    ("vit", {"qkv_bias": False}, "qkv_bias is False; only True"),
    ("vit", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
]
INEXPRESSIBLE = {
    "vit-without": "num_heads 5",
}
HEADS = [("ViTForMaskedImageModeling", CONFIG)]
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_tiny": ("vit_tiny_patch16_224", {"img_size": 32, "num_classes": 3}),
    "deit_tiny": ("deit_tiny_patch16_224", {"img_size": [32, 48], "in_chans": 5}),
}
