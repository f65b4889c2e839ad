from __future__ import annotations

from typing import Any

from ..oracle import Case
from .hgnetv2 import B4, B5
from .hgnetv2 import config as network_config
from .hgnetv2 import preset as network_preset
from .resnet import images


def network(config: dict[str, Any], **others: Any) -> dict[str, Any]:
    """A serialized HGNetV2."""
    return {
        "module": "keras_hub.src.models.hgnetv2.hgnetv2_backbone",
        "class_name": "HGNetV2Backbone",
        "config": {
            "trainable": True,
            "dtype": {
                "module": "keras",
                "class_name": "DTypePolicy",
                "config": {"name": "float32"},
                "registered_name": None,
            },
            "image_shape": [None, None, 3],
            "data_format": "channels_last",
            **config,
            **others,
        },
        "registered_name": "keras_hub>HGNetV2Backbone",
    }


def small(*widths: int, **others: Any) -> dict[str, Any]:
    """Stages of a block of one layer, each with half the resolution of the one before."""
    before = [4, *widths]
    stages = [[inputs, 3, filters, 1, 1, 3] for inputs, filters in zip(before, widths)]
    config = network_config(stages, apply_downsample=[True] * len(widths))
    names = ["stem", *(f"stage{i + 1}" for i in range(len(widths)))]
    return network(config, **{"out_features": names, **others})


def config(**others: Any) -> dict[str, Any]:
    return {
        "backbone": small(5, 6),
        "decoder_in_channels": [8, 8],
        "encoder_hidden_dim": 8,
        "num_labels": 5,
        "num_denoising": 6,
        "learn_initial_query": False,
        "num_queries": 3,
        "anchor_image_size": [32, 32],
        "feat_strides": [8, 16],
        "num_feature_levels": 2,
        "hidden_dim": 8,
        "encoder_in_channels": [5, 6],
        "encode_proj_layers": [1],
        "num_attention_heads": 2,
        "encoder_ffn_dim": 7,
        "num_encoder_layers": 1,
        "hidden_expansion": 0.8,
        "depth_multiplier": 0.4,
        "eval_idx": -1,
        "num_decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 9,
        "decoder_n_points": [2, 3],
        "lqe_hidden_dim": 6,
        "num_lqe_layers": 2,
        **others,
    }


LABELS = [
    {"boxes": [[0.5, 0.4, 0.2, 0.3], [0.25, 0.5, 0.5, 0.75]], "labels": [1, 4]},
    {"boxes": [], "labels": []},
    {"boxes": [[0.625, 0.125, 0.25, 0.25]], "labels": [0]},
]
CASES = [
    Case(
        "d-fine",
        "DFineBackbone",
        config(
            image_shape=[32, 32, 3],
            num_denoising=0,
            num_queries=4,
            depth_multiplier=0.1,
        ),
        images(4, 32, 32),
    ),
    Case(
        "d-fine-labels",
        "DFineBackbone",
        config(
            backbone=small(5, 6, 4, image_shape=[None, None, 1]),
            decoder_in_channels=[12, 12, 12],
            encoder_in_channels=[5, 6, 4],
            encoder_hidden_dim=12,
            feat_strides=[8, 16, 32, 64],
            num_feature_levels=4,
            encode_proj_layers=[2, 0],
            num_encoder_layers=2,
            depth_multiplier=1.0,
            decoder_n_points=2,
            decoder_method="discrete",
            num_queries=6,
            num_decoder_layers=1,
            eval_idx=0,
            num_lqe_layers=1,
            num_denoising=9,
            labels=LABELS,
            label_noise_ratio=0.0,
            box_noise_scale=0.0,
            anchor_image_size=[64, 92],
            image_shape=[None, None, 1],
            name="eyes",
        ),
        images(2, 64, 90, 1),
        most_draws=32,
    ),
    Case(
        "d-fine-learned",
        "DFineBackbone",
        config(
            backbone=small(5, 6, 4, name="network"),
            feat_strides=[7, 14, 9],
            num_feature_levels=3,
            decoder_n_points=[1, 2, 1],
            encode_proj_layers=[],
            num_encoder_layers=0,
            learn_initial_query=True,
            out_features=["stage1", "stage2"],
            anchor_image_size=[30, 23],
            num_decoder_layers=3,
            eval_idx=1,
        ),
        images(1, 30, 25),
    ),
]


def preset(
    backbone: dict[str, Any], affine: bool, widths: list[int], dim: int = 256, **others: Any
) -> dict[str, Any]:
    """For images of 640 pixels: the last stages of a network, of these widths."""
    count = len(widths)
    features = [f"stage{i}" for i in range(5 - count, 5)]
    return config(
        backbone=network(backbone, use_learnable_affine_block=affine, out_features=features),
        decoder_in_channels=[dim] * count,
        encoder_hidden_dim=dim,
        num_denoising=100,
        num_queries=300,
        anchor_image_size=[640, 640],
        feat_strides=[8, 16, 32][-count:],
        num_feature_levels=count,
        encoder_in_channels=widths,
        encode_proj_layers=[count - 1],
        num_attention_heads=8,
        decoder_attention_heads=8,
        lqe_hidden_dim=64,
        out_features=features,
        **{
            "num_labels": 80,
            "hidden_dim": dim,
            "encoder_ffn_dim": 1024,
            "decoder_ffn_dim": 1024,
            "decoder_n_points": [3, 6, 3],
            "num_decoder_layers": 6,
            **others,
        },
    )


B0 = network_preset(16, [16, 64, 1, 3], [32, 256, 1, 3], [64, 512, 2, 3], [128, 1024, 1, 3])
B2 = network_preset(24, [32, 96, 1, 4], [64, 384, 1, 4], [128, 768, 3, 4], [256, 1536, 1, 4])
SIZES: dict[str, dict[str, Any]] = {
    "nano": {
        "backbone": B0,
        "affine": True,
        "widths": [512, 1024],
        "dim": 128,
        "hidden_expansion": 0.34,
        "depth_multiplier": 0.5,
        "encoder_ffn_dim": 512,
        "decoder_ffn_dim": 512,
        "decoder_n_points": [6, 6],
        "num_decoder_layers": 3,
    },
    "small": {
        "backbone": B0,
        "affine": True,
        "widths": [256, 512, 1024],
        "hidden_expansion": 0.5,
        "depth_multiplier": 0.34,
        "num_decoder_layers": 3,
    },
    "medium": {
        "backbone": B2,
        "affine": True,
        "widths": [384, 768, 1536],
        "hidden_expansion": 1.0,
        "depth_multiplier": 0.67,
        "num_decoder_layers": 4,
    },
    "large": {
        "backbone": B4,
        "affine": False,
        "widths": [512, 1024, 2048],
        "hidden_expansion": 1.0,
        "depth_multiplier": 1.0,
    },
    "xlarge": {
        "backbone": B5,
        "affine": False,
        "widths": [512, 1024, 2048],
        "dim": 384,
        "hidden_dim": 256,
        "hidden_expansion": 1.0,
        "depth_multiplier": 1.0,
        "encoder_ffn_dim": 2048,
    },
}
TRAININGS = {
    "coco": ("nano", "small", "medium", "large", "xlarge"),
    "obj365": ("small", "medium", "large", "xlarge"),
    "obj2coco": ("small", "medium", "xlarge"),
    "obj2coco_e25": ("large",),
}
PRESETS = {
    f"dfine_{size}_{training}": preset(
        **SIZES[size], num_labels=366 if training == "obj365" else 80
    )
    for training, sizes in TRAININGS.items()
    for size in sizes
}
