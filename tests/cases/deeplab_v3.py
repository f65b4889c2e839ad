from __future__ import annotations

from typing import Any

from ..oracle import Case
from .resnet import images
from .retinanet import RESNET50, encoder


def config(**others: Any) -> dict[str, Any]:
    return {
        "image_encoder": encoder(),
        "spatial_pyramid_pooling_key": "P4",
        "upsampling_size": 4,
        "dilation_rates": [1, 3],
        "low_level_feature_key": "P2",
        "projection_filters": 7,
        **others,
    }


CASES = [
    Case(
        "deeplab-plus",
        "DeepLabV3Backbone",
        config(image_shape=(29, 48, 3)),
        images(2, 29, 48),
        deviation=0.1,  # or gradients are too small for float16
    ),
    Case("deeplab-free", "DeepLabV3Backbone", config(), images(1, 48, 31)),
    Case(
        "deeplab",
        "DeepLabV3Backbone",
        config(
            image_encoder=encoder(image_shape=[31, 32, 3]),  # the last map has one pixel
            low_level_feature_key=None,
            spatial_pyramid_pooling_key="P5",
            upsampling_size=8,
            dilation_rates=[2],
            image_shape=(31, 32, 3),
        ),
        images(2, 31, 32),
    ),
    Case(
        "deeplab-v2-encoder",
        "DeepLabV3Backbone",
        config(
            image_encoder=encoder(
                use_pre_activation=True,
                block_type="bottleneck_block",
                image_shape=[None, None, 5],
            ),
            low_level_feature_key="P3",
            upsampling_size=2,
            image_shape=(None, None, 5),
        ),
        images(1, 32, 31, 5),
    ),
]
PRESETS: dict[str, dict[str, Any]] = {
    "deeplab_v3_plus_resnet50_pascalvoc": config(
        image_encoder=encoder(**RESNET50),
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[6, 12, 18],
        projection_filters=48,
    )
}
