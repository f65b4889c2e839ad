"""Swin Transformer."""

from __future__ import annotations

from typing import Any

from ...backbones.swin_transformer import SwinTransformerBackbone
from ..checkpoints.table import (
    Arguments,
    Table,
    constant,
    key,
    layer,
    only,
    override,
    rule,
    under,
)
from ..transformers.swin_transformer import check_windows, stages
from .vit import SHAPE

# Width and blocks of the third stage.
SIZES = {"tiny": (96, 6), "small": (96, 18), "base": (128, 18), "large": (192, 18)}
NAMES = (
    *(f"swin_{size}_patch4_window7_224" for size in SIZES),
    *(f"swin_{size}_patch4_window12_384" for size in ("base", "large")),
)


def variant(name: str) -> dict[str, Any]:
    """`swin_tiny_patch4_window7_224` → the constructor's arguments."""
    _, size, _, window, side = name.split("_")
    width, blocks = SIZES[size]
    return {
        "image_shape": (int(side), int(side), 3),
        "embed_dim": width,
        "depths": (2, 2, blocks, 2),
        "num_heads": tuple(width // 32 * 2**i for i in range(4)),
        "window_size": int(window[6:]),
    }


def check_shifts(arguments: Arguments) -> None:
    """Windows are moved along sides that they do not fill at once; in KerasHub where all are so."""
    check_windows(arguments)
    window = arguments["window_size"]
    for i, (depth, sides) in enumerate(zip(arguments["depths"], stages(arguments))):
        if depth > 1 and min(sides) <= window < max(sides):
            raise ValueError(
                f"window_size {window} fills one side of stage {i} of {sides[0]} × {sides[1]} "
                "patches; timm moves it along the other one"
            )


SWIN = Table(
    backbone=SwinTransformerBackbone,
    variants={name: variant(name) for name in NAMES},
    config=(
        SHAPE,
        override("model_args.window_size", "window_size"),
        override("model_args.embed_dim", "embed_dim"),
        override("model_args.depths", "depths", tuple, list),
        override("model_args.num_heads", "num_heads", tuple, list),
        key("model_args.mlp_ratio", "mlp_ratio", 4.0, float),
        key("model_args.qkv_bias", "qkv_bias", True),
        key("model_args.proj_drop_rate", "dropout_rate", 0.0, float),
        key("model_args.attn_drop_rate", "attention_dropout", 0.0, float),
        key("model_args.drop_path_rate", "drop_path", 0.1, float),
        only("model_args.strict_img_size", True),
        constant(patch_size=4, patch_norm=True),
    ),
    weights=(
        *layer("patch_embed.proj", "patch_embedding.proj"),
        *layer("patch_embed.norm", "patch_embedding.norm"),
        *under(
            "layers.{}.blocks.{}.",
            "stage_{}.blocks.{}.",
            (
                *layer("norm1", "norm1"),
                *layer("attn.qkv", "attn.qkv"),
                rule("attn.relative_position_bias_table", "attn.relative_position_bias_table"),
                *layer("attn.proj", "attn.proj"),
                *layer("norm2", "norm2"),
                *layer("mlp.fc1", "mlp.fc1"),
                *layer("mlp.fc2", "mlp.fc2"),
            ),
        ),
        *layer("layers.{+1}.downsample.norm", "stage_{}.downsample.norm"),
        rule("layers.{+1}.downsample.reduction.weight", "stage_{}.downsample.reduction.weight"),
        *layer("norm", "norm"),
    ),
    dropped=("head.*", "*.attn_mask", "*.relative_position_index"),
    check=check_shifts,
)
TABLES = (SWIN,)
