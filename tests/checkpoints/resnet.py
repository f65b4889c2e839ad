from __future__ import annotations

from typing import Any

from . import Checkpoint, Interface
from .vit import images

PARTS = ("shortcut", "layer.0", "layer.1", "layer.2")
BLOCKS = [
    f"encoder.stages.{i}.layers.{j}.{part}" for i in range(3) for j in (0, 1) for part in PARTS
]
IMAGES = Interface(
    {"images": "pixel_values"},
    {"output": ("last_hidden_state", None)},
    forms={
        "images": lambda images: images.permute(0, 3, 1, 2),
        "output": lambda output: output.permute(0, 2, 3, 1),
    },
    # Ours count no batches.
    unmatched=tuple(
        f"{name}.normalization.num_batches_tracked" for name in ("embedder.embedder", *BLOCKS)
    ),
)
CONFIG: dict[str, Any] = {
    "embedding_size": 5,
    "hidden_sizes": [256, 12, 8],
    "depths": [1, 2, 1],
}
CHECKPOINTS = [
    Checkpoint(
        "resnet",
        "ResNetForImageClassification",
        "ResNetBackbone",
        {**CONFIG, "downsample_in_first_stage": True},
        IMAGES,
        images(2, 37, 48, 3),
        in_keras_hub=False,
    ),
    Checkpoint(
        "resnet-basic",
        "ResNetModel",
        "ResNetBackbone",
        {
            "layer_type": "basic",
            "hidden_sizes": [64, 7],
            "depths": [2, 1],
            "num_channels": 1,
            "downsample_in_bottleneck": True,
        },
        IMAGES,
        images(1, 33, 30, 1),
        in_keras_hub=False,
    ),
]
SHORTCUT = "embedding_size is {} and downsample_in_first_stage {}, .* first of these {} layers"
REFUSED = [
    ("resnet", {"downsample_in_bottleneck": True}, "downsample_in_bottleneck is True"),
    ("resnet", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("resnet", {"layer_type": "vd"}, "layer_type is 'vd'"),
    ("resnet", {"hidden_sizes": [256, 13, 8]}, r"hidden_sizes is \[256, 13, 8\]; .* of 4,"),
    ("resnet", {"hidden_sizes": [128, 12, 8]}, "hidden_sizes is .* the first of them 256"),
    ("resnet", {"depths": [1, 2]}, r"hidden_sizes .* and depths \[1, 2\] are of different"),
    (
        "resnet",
        {"embedding_size": 256, "downsample_in_first_stage": False},
        SHORTCUT.format(256, False, "bottleneck"),
    ),
    ("resnet-basic", {"embedding_size": 32}, SHORTCUT.format(32, False, "basic")),
    ("resnet-basic", {"downsample_in_first_stage": True}, SHORTCUT.format(64, True, "basic")),
]
INEXPRESSIBLE = {
    "resnet-v2": "use_pre_activation is True",
    "resnet-v2-basic": "use_pre_activation is True",
    "resnet-vd": "block_type is 'bottleneck_block_vd'",
    "resnet-vd-basic": "block_type is 'basic_block_vd'",
    "resnet-channels": r"stackwise_num_strides is \[1, 3\]",
}
HEADS = [("ResNetBackbone", {**CONFIG, "out_features": ["stage1", "stage3"]})]
# Folder → architecture of timm and its arguments.
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("resnet18", {}),
    "resnet26": ("resnet26", {"num_classes": 7}),
    "resnet26d": ("resnet26d", {"in_chans": 5}),
    "resnetv2_34": ("resnetv2_34", {"drop_path_rate": 0.1}),
    "resnetv2_50": ("resnetv2_50", {}),
}
TIMM_IN_KERAS_HUB = {"resnet18", "resnet26", "resnetv2_50"}
