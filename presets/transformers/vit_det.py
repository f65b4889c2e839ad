"""SAM's Vision Transformer alone. There it takes normalized images; here it normalizes them.

Models of type `vitdet` have no neck behind their blocks: they are other networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...backbones.vit_det import ViTDetBackbone
from ..checkpoints.table import Key, Table, assumed, fixed, heads, key, layer, rule, under
from .vit import side


def save_shape(shape: Sequence[int | None]) -> tuple[Any, ...]:
    if shape[2] == 1:
        raise ValueError(f"image_shape is {tuple(shape)}; one channel for all three is not there")
    return shape[0], 3


CONFIG = (
    Key(
        {"image_size": 1024, "num_channels": 3},
        ("image_shape",),
        lambda size, channels: ((side(size, "image_size"),) * 2 + (channels,),),
        save_shape,
    ),
    fixed("num_channels", 3),
    key("patch_size", "patch_size", 16, side),
    key("num_hidden_layers", "num_layers", 12),
    key("hidden_size", "hidden_size", 768),
    heads("num_attention_heads", "num_heads", "hidden_size", 12),
    Key(
        {"mlp_dim": None, "mlp_ratio": 4.0, "hidden_size": 768},
        ("intermediate_dim",),
        lambda inner, ratio, width: (int(width * ratio) if inner is None else inner,),
        lambda inner: (inner,),
    ),
    key("global_attn_indexes", "global_attention_layer_indices", (2, 5, 8, 11), save=list),
    key("output_channels", "num_output_channels", 256),
    key("qkv_bias", "use_bias", True),
    key("use_abs_pos", "use_abs_pos", True),
    key("use_rel_pos", "use_rel_pos", True),
    key("window_size", "window_size", 14),
    fixed("hidden_act", "gelu"),
    # The argument has no effect.
    replace(
        assumed("layer_norm_eps", 1e-6), ours=("layer_norm_epsilon",), save=lambda epsilon: (1e-6,)
    ),
)
IGNORED = (
    "attention_dropout",
    "dropout",
    "intermediate_size",
    "num_pos_feats",
    "projection_dim",
    "scale",
)
WEIGHTS = (
    *layer("patch_embed.projection", "patching.projection"),
    rule("pos_embed", "positions.pos_embed"),
    *under(
        "layers.{}.",
        "layers.{}.",
        (
            *layer("layer_norm1", "layer_norm1"),
            *layer("attn.qkv", "attention.qkv"),
            rule("attn.rel_pos_h", "attention.positions.rel_pos_h"),
            rule("attn.rel_pos_w", "attention.positions.rel_pos_w"),
            *layer("attn.proj", "attention.projection"),
            *layer("layer_norm2", "layer_norm2"),
            *layer("mlp.lin1", "mlp_block.dense_net.0"),
            *layer("mlp.lin2", "mlp_block.dense_net.2"),
        ),
    ),
    rule("neck.conv1.weight", "neck.conv1.weight"),
    *layer("neck.layer_norm1", "neck.norm1"),
    rule("neck.conv2.weight", "neck.conv2.weight"),
    *layer("neck.layer_norm2", "neck.norm2"),
)
VIT_DET = Table(
    model_types=("sam_vision_model",),
    backbone=ViTDetBackbone,
    architecture="SamVisionModel",
    config=CONFIG,
    ignored=IGNORED,
    weights=under("vision_encoder.", "", WEIGHTS),
)
TABLES = (VIT_DET,)
