from __future__ import annotations

from typing import Any

from ..oracle import Case
from . import mit
from .vit import images


def encoder(config: dict[str, Any], **others: Any) -> dict[str, Any]:
    """A serialized MiT."""
    return {
        "module": "keras_hub.src.models.mit.mit_backbone",
        "class_name": "MiTBackbone",
        "config": {
            **config,
            "image_shape": list(config["image_shape"]),
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
        "registered_name": "keras_hub>MiTBackbone",
    }


CASES = [
    Case(
        "segformer",
        "SegFormerBackbone",
        {"image_encoder": encoder(mit.config(24, 24, 3)), "projection_filters": 7},
        images(2, 24, 24, 3),
    ),
    Case(
        "segformer-three",
        "SegFormerBackbone",
        {
            "image_encoder": encoder(
                mit.config(
                    40,
                    40,
                    1,
                    layerwise_depths=[1, 0, 1],
                    num_layers=3,
                    layerwise_num_heads=[3, 2, 4],
                    layerwise_sr_ratios=[3, 2, 1],
                    layerwise_patch_sizes=[5, 3, 3],
                    layerwise_strides=[2, 4, 2],
                    hidden_dims=[9, 4, 8],
                )
            ),
            "projection_filters": 5,
        },
        images(1, 40, 40, 1),
    ),
]
