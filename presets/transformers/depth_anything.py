"""Depth Anything. What follows the head's last convolution there is no part of the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...backbones.depth_anything import DepthAnythingBackbone
from ...backbones.dinov2 import DINOV2Backbone
from ..checkpoints.table import (
    Key,
    Table,
    demanded,
    fixed,
    key,
    layer,
    of,
    only,
    rule,
    under,
    within,
)
from .dinov2 import DINOV2
from .vit import side


def load_keys(
    names: Sequence[str] | None, places: Sequence[int] | None, count: int
) -> tuple[list[str]]:
    """The encoder's maps, by their names or by their places among all."""
    if names is None and places is None:
        raise ValueError("backbone_config.out_features missing")
    known = stages(count)
    return ([known[place] for place in places or ()] if names is None else list(names),)


def save_keys(keys: Sequence[str], count: int) -> tuple[list[str]]:
    """They have to be in the encoder's order, in which they are taken anyway."""
    return ([name for name in stages(count) if name in keys],)


def stages(count: int) -> list[str]:
    return ["stem", *(f"stage{i + 1}" for i in range(count))]


def check_patch(own: Any, encoders: Any) -> tuple[()]:
    if side(own) != side(encoders):
        raise ValueError(f"patch_size is {own} and backbone_config.patch_size {encoders}")
    return ()


def check_width(own: int, encoders: int) -> tuple[()]:
    if own != encoders:
        raise ValueError(
            f"reassemble_hidden_size is {own} and backbone_config.hidden_size {encoders}"
        )
    return ()


def save_factors(factors: Sequence[float]) -> tuple[Any, ...]:
    if any(factor > 1 and factor != int(factor) for factor in factors):
        raise ValueError(f"reassemble_factors is {factors}; those above one must be whole")
    return ([int(factor) if factor >= 1 else factor for factor in factors],)


RESIDUAL = (*layer("convolution1", "convolution1"), *layer("convolution2", "convolution2"))
FUSION = (
    *under("residual_layer1.", "residual_layer1.", RESIDUAL),
    *under("residual_layer2.", "residual_layer2.", RESIDUAL),
    *layer("projection", "projection"),
)
DEPTH_ANYTHING = Table(
    model_types=("depth_anything",),
    backbone=DepthAnythingBackbone,
    parts={"image_encoder": DINOV2Backbone},
    architecture="DepthAnythingForDepthEstimation",
    config=(
        *within("backbone_config.", DINOV2.config, "image_encoder"),
        fixed("backbone_config.model_type", "dinov2"),
        demanded("backbone_config.reshape_hidden_states", True, False),
        Key(
            {
                "backbone_config.out_features": None,
                "backbone_config.out_indices": None,
                "backbone_config.num_hidden_layers": 12,
            },
            ("feature_keys", "image_encoder.num_layers"),
            load_keys,
            save_keys,
        ),
        Key(
            {"patch_size": 14, "backbone_config.patch_size": 14},
            ("image_encoder.patch_size",),
            check_patch,
            lambda patch: (patch,),
        ),
        Key(
            {"reassemble_hidden_size": 384, "backbone_config.hidden_size": 768},
            ("image_encoder.hidden_dim",),
            check_width,
            lambda width: (width,),
        ),
        Key(
            {"reassemble_factors": (4, 2, 1, 0.5)},
            ("reassemble_factors",),
            lambda factors: (factors,),
            save_factors,
        ),
        key("neck_hidden_sizes", "neck_hidden_dims", (48, 96, 192, 384)),
        key("fusion_hidden_size", "fusion_hidden_dim", 64),
        key("head_hidden_size", "head_hidden_dim", 32),
        key("head_in_index", "head_in_index", -1),
        only("backbone", None),
        # There images are always channels-first.
        Key({}, ("data_format",), tuple, lambda data_format: ()),
    ),
    ignored=(
        *(f"backbone_config.{name}" for name in DINOV2.ignored),
        "backbone_kwargs",
        "depth_estimation_type",
        "max_depth",
        "use_pretrained_backbone",
        "use_timm_backbone",
    ),
    weights=(
        *of("image_encoder", "backbone.", DINOV2.weights),
        *layer("neck.reassemble_stage.layers.{}.projection", "neck.reassemble_stage.{}.projection"),
        *layer("neck.reassemble_stage.layers.{}.resize", "neck.reassemble_stage.{}.resize"),
        rule("neck.convs.{}.weight", "neck.convs.{}.weight"),
        *under("neck.fusion_stage.layers.{}.", "neck.fusion_stage.{}.", FUSION),
        *layer("head.conv1", "head.conv1"),
        *layer("head.conv2", "head.conv2"),
        *layer("head.conv3", "head.conv3"),
    ),
)
TABLES = (DEPTH_ANYTHING,)
