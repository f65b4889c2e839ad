from __future__ import annotations

from typing import Any

from . import Checkpoint
from .vit import CONFIG, IMAGES, images

CHECKPOINTS = [
    Checkpoint(
        "deit",
        "DeiTForImageClassificationWithTeacher",
        "DeiTBackbone",
        CONFIG,
        IMAGES,
        images(2, 8, 8, 3),
    ),
    Checkpoint(
        "deit-model",
        "DeiTModel",
        "DeiTBackbone",
        {**CONFIG, "num_channels": 1, "attention_probs_dropout_prob": 0.2},
        IMAGES,
        images(1, 8, 8, 1),
        in_keras_hub=False,
    ),
]
INEXPRESSIBLE = {"deit-without": "num_heads 5"}
HEADS = [("DeiTForMaskedImageModeling", CONFIG), ("DeiTForImageClassification", CONFIG)]
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "deit_tiny_distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 32}),
}
