from __future__ import annotations

from typing import Any

from . import Checkpoint, Interface
from .vit import images

IMAGES = Interface(
    {"images": "pixel_values"},
    {"output": ("last_hidden_state", None)},
    forms={
        "images": lambda images: images.permute(0, 3, 1, 2),
        "output": lambda output: output.permute(0, 2, 3, 1),
    },
)
CONFIG: dict[str, Any] = {
    "num_encoder_blocks": 2,
    "depths": [1, 2],
    "hidden_sizes": [4, 6],
    "num_attention_heads": [2, 3],
    "sr_ratios": [2, 1],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "mlp_ratios": [4, 4],
    "hidden_act": "gelu_pytorch_tanh",
}
CHECKPOINTS = [
    Checkpoint(
        "segformer",
        "SegformerForSemanticSegmentation",
        "MiTBackbone",
        {**CONFIG, "hidden_dropout_prob": 0.1},
        IMAGES,
        images(2, 24, 24, 3),
        in_keras_hub=False,
    ),
    Checkpoint(
        "segformer-odd",
        "SegformerModel",
        "MiTBackbone",
        {
            **CONFIG,
            "num_channels": 1,
            "num_encoder_blocks": 3,
            "depths": [1, 0, 1],
            "hidden_sizes": [4, 6, 5],
            "num_attention_heads": [1, 2, 5],
            "sr_ratios": [3, 1, 2],
            "patch_sizes": [4, 3, 1],
            "strides": [3, 2, 1],
            "mlp_ratios": [4, 4, 4],
        },
        IMAGES,
        images(1, 22, 31, 1),
        in_keras_hub=False,
    ),
]
INEXPRESSIBLE = {"mit-odd": "image_shape .* is cut"}
REFUSED = [
    ("segformer", {"mlp_ratios": [4, 2]}, r"mlp_ratios is \[4, 2\]; only 4"),
    ("segformer", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ("segformer", {"reshape_last_stage": False}, "reshape_last_stage is False"),
]
OLD = [("segformer", {"image_size": 224, "downsampling_rates": [1, 4, 8, 16]})]
HEADS = [("SegformerForImageClassification", CONFIG)]
