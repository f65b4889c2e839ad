from __future__ import annotations

from typing import Any

from ..oracle import Case
from .dinov2 import config as encoder_config
from .dinov2 import preset as encoder_preset
from .vit import images


def config(encoder: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {
        "image_encoder": {
            "module": "keras_hub.src.models.dinov2.dinov2_backbone",
            "class_name": "DINOV2Backbone",
            "config": encoder,
            "registered_name": "keras_hub>DINOV2Backbone",
        },
        **others,
    }


def preset(
    dim: int, layers: int, heads: int, stages: tuple[int, ...], dims: list[int], fusion: int
) -> dict[str, Any]:
    return config(
        encoder_preset(dim, layers, heads, 0),
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=dims,
        fusion_hidden_dim=fusion,
        head_hidden_dim=32,
        head_in_index=-1,
        feature_keys=[f"stage{stage}" for stage in stages],
    )


PRESETS = {
    "depth_anything_v2_small": preset(384, 12, 6, (3, 6, 9, 12), [48, 96, 192, 384], 64),
    "depth_anything_v2_base": preset(768, 12, 12, (3, 6, 9, 12), [96, 192, 384, 768], 128),
    "depth_anything_v2_large": preset(1024, 24, 16, (5, 12, 18, 24), [256, 512, 1024, 1024], 256),
}
CASES = [
    Case(
        "depth-anything",
        "DepthAnythingBackbone",
        config(
            encoder_config((24, 24, 3), (24, 24)),  # resampled on TensorFlow they are others
            reassemble_factors=[2, 1, 0.5],
            neck_hidden_dims=[5, 6, 7],
            fusion_hidden_dim=9,
            head_hidden_dim=3,
            head_in_index=-1,
        ),
        images(2, 24, 24, 3),
    ),
    Case(
        "depth-anything-keys",
        "DepthAnythingBackbone",
        config(
            encoder_config(
                (22, 22, 1),
                (12, 12, 1),
                num_layers=3,
                num_register_tokens=2,
                use_swiglu_ffn=True,
                apply_layernorm=True,
                name="vision",
            ),
            reassemble_factors=[4.0, 2.0],
            neck_hidden_dims=[4, 3],
            fusion_hidden_dim=4,
            head_hidden_dim=2,
            head_in_index=0,
            feature_keys=["stage3", "stage1"],
        ),
        images(1, 22, 22, 1),
    ),
]
