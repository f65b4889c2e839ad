from __future__ import annotations

from typing import Any

from ..oracle import Case
from .resnet import images


def encoder(**others: Any) -> dict[str, Any]:
    """A serialized ResNet with the levels P2 to P5."""
    return {
        "module": "keras_hub.src.models.resnet.resnet_backbone",
        "class_name": "ResNetBackbone",
        "config": {
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 4, 3, 2],
            "stackwise_num_blocks": [1, 1, 1, 1],
            "stackwise_num_strides": [1, 2, 2, 2],
            "block_type": "basic_block",
            "use_pre_activation": False,
            "image_shape": [None, None, 3],
            "name": "encoder",
            "trainable": True,
            "dtype": {
                "module": "keras",
                "class_name": "DTypePolicy",
                "config": {"name": "float32"},
                "registered_name": None,
            },
            **others,
        },
        "registered_name": "keras_hub>ResNetBackbone",
    }


RESNET50 = {
    "stackwise_num_filters": [64, 128, 256, 512],
    "stackwise_num_blocks": [3, 4, 6, 3],
    "block_type": "bottleneck_block",
}


def config(**others: Any) -> dict[str, Any]:
    return {
        "image_encoder": encoder(),
        "min_level": 3,
        "max_level": 7,
        "use_p5": False,
        **others,
    }


CASES = [
    Case(
        "retinanet",
        "RetinaNetBackbone",
        config(max_level=5, image_shape=(58, 64, 3)),
        images(2, 58, 64),
    ),
    Case("retinanet-p5", "RetinaNetBackbone", config(use_p5=True), images(2, 58, 61)),
    Case(
        "retinanet-norm",
        "RetinaNetBackbone",
        config(use_fpn_batch_norm=True, min_level=4, max_level=6, image_shape=(64, 60, 3)),
        images(1, 64, 60),
    ),
    Case(
        "retinanet-v2",
        "RetinaNetBackbone",
        config(image_encoder=encoder(use_pre_activation=True), max_level=4),
        images(1, 45, 64),
    ),
    Case(
        "retinanet-channels",
        "RetinaNetBackbone",
        config(
            image_encoder=encoder(image_shape=[None, None, 5], block_type="bottleneck_block_vd"),
            min_level=2,
            max_level=5,
            image_shape=(None, None, 5),
        ),
        images(1, 32, 61, 5),
    ),
]
PRESETS: dict[str, dict[str, Any]] = {
    "retinanet_resnet50_fpn_coco": config(image_encoder=encoder(**RESNET50)),
    "retinanet_resnet50_fpn_v2_coco": config(image_encoder=encoder(**RESNET50), use_p5=True),
}
# The heads of the detector, of 9 anchors and 91 classes, are counted in.
MISCOUNTED = {"retinanet_resnet50_fpn_coco": 6691415}
