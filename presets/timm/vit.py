"""ViT, and DeiT without distillation, which is the same network; and what others share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...backbones.vit import ViTBackbone
from ..checkpoints.table import (
    BATCHED,
    FUSE,
    Key,
    Table,
    constant,
    key,
    layer,
    rule,
    shared,
    under,
)
from ..transformers.vit import channels_last

# Width, blocks, heads, and how much wider the feed-forward networks are.
SIZES: dict[str, tuple[int, int, int, float]] = {
    "tiny": (192, 12, 3, 4),
    "small": (384, 12, 6, 4),
    "base": (768, 12, 12, 4),
    "large": (1024, 24, 16, 4),
    "huge": (1280, 32, 16, 4),
    "giant": (1408, 40, 16, 48 / 11),
    "gigantic": (1664, 48, 16, 64 / 13),
}
NAMES = (
    *(f"vit_{size}_patch16_{side}" for size in ("tiny", "small", "base") for side in (224, 384)),
    *(f"vit_{size}_patch32_{side}" for size in ("small", "base") for side in (224, 384)),
    *("vit_small_patch8_224", "vit_base_patch8_224", "vit_large_patch14_224"),
    *(f"vit_large_patch{patch}_{side}" for patch in (16, 32) for side in (224, 384)),
    *(f"vit_{size}_patch14_224" for size in ("huge", "giant", "gigantic")),
    *(f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")),
    "deit_base_patch16_384",
)


def variant(name: str, mlp: str) -> dict[str, Any]:
    """`vit_tiny_patch16_224` → the constructor's arguments, `mlp` being that of the width inside
    the feed-forward networks.
    """
    size, patch, side = name.split("_")[-3:]
    width, layers, heads, ratio = SIZES[size]
    return {
        "image_shape": (int(side), int(side), 3),
        "patch_size": (int(patch[5:]), int(patch[5:])),
        "num_layers": layers,
        "num_heads": heads,
        "hidden_dim": width,
        mlp: int(width * ratio),
    }


def load_shape(
    size: int | Sequence[int] | None, channels: int | None, given: Sequence[int] | None
) -> tuple[Any, ...]:
    """Nothing where none of them is said: the variant's own stands."""
    if size is None and channels is None and given is None:
        return ()
    given = given or (3, 224, 224)
    sides = given[1:] if size is None else (size, size) if isinstance(size, int) else size
    return ((*sides, channels or given[0]),)


def save_shape(shape: Sequence[int], data_format: str | None) -> tuple[Any, ...]:
    *size, channels = channels_last(shape, data_format)
    return size, channels


SHAPE = Key(
    {
        "model_args.img_size": None,
        "model_args.in_chans": None,
        "pretrained_cfg.input_size": None,
    },
    ("image_shape", "data_format"),
    load_shape,
    save_shape,
)
CONFIG = (
    SHAPE,
    key("model_args.attn_drop_rate", "attention_dropout", 0.0),
    constant(use_mha_bias=True, layer_norm_epsilon=1e-6),
)
ATTENTION = (
    *layer("norm1", "ln_1"),
    rule("attn.qkv.weight", ("mha.query.weight", "mha.key.weight", "mha.value.weight"), FUSE),
    rule("attn.qkv.bias", ("mha.query.bias", "mha.key.bias", "mha.value.bias"), FUSE),
    *layer("attn.proj", "mha.attention_output"),
    *layer("norm2", "ln_2"),
)
VIT = Table(
    backbone=ViTBackbone,
    variants={name: variant(name, "mlp_dim") for name in NAMES},
    config=(
        *CONFIG,
        shared(("model_args.proj_drop_rate", "model_args.pos_drop_rate"), "dropout_rate", 0.0),
        constant(use_mlp_bias=True, use_class_token=True, use_patch_bias=True),
    ),
    weights=(
        rule("cls_token", "vit_patching_and_embedding.class_token"),
        rule("pos_embed", "vit_patching_and_embedding.position_embedding.weight", BATCHED),
        *layer("patch_embed.proj", "vit_patching_and_embedding.patch_embedding"),
        *under(
            "blocks.{}.",
            "vit_encoder.encoder_layers.{}.",
            (*ATTENTION, *layer("mlp.fc1", "mlp.dense_1"), *layer("mlp.fc2", "mlp.dense_2")),
        ),
        *layer("norm", "vit_encoder.ln"),
    ),
    dropped=("head.*", "pre_logits.*"),
)
TABLES = (VIT,)
