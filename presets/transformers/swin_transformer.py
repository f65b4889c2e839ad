"""Swin Transformer."""

from __future__ import annotations

import torch

from ...backbones.swin_transformer import SwinTransformerBackbone
from ..checkpoints.table import (
    Arguments,
    Operation,
    Rule,
    Table,
    constant,
    fixed,
    key,
    layer,
    rule,
    under,
)
from .vit import SHAPE, channels_last, side


def stages(arguments: Arguments) -> list[tuple[int, int]]:
    """Height and width of the stages, in patches."""
    patch = arguments["patch_size"]
    height, width, _ = channels_last(arguments["image_shape"], arguments.get("data_format"))
    if height % patch or width % patch:
        raise ValueError(f"patch_size {patch} does not divide images of {height} × {width}")
    count = len(arguments["depths"])
    return [(height // patch // 2**i, width // patch // 2**i) for i in range(count)]


def check_windows(arguments: Arguments) -> None:
    """Where shifted windows do not fill a stage KerasHub moves them otherwise than all others."""
    window = arguments["window_size"]
    for i, (depth, sides) in enumerate(zip(arguments["depths"], stages(arguments))):
        if depth > 1 and min(sides) > window and any(side % window for side in sides):
            raise ValueError(
                f"window_size {window} does not divide stage {i} of {sides[0]} × {sides[1]} patches"
            )


# Ours is three of theirs, one after the other along the first axis.
SPLIT = Operation(
    save=lambda tensors: list(tensors[0].chunk(3)),
    load=lambda tensors, shapes: [torch.cat(list(tensors))],
)
BLOCK = (
    *layer("layernorm_before", "norm1"),
    *(
        Rule(
            tuple(f"attention.self.{name}.{kind}" for name in ("query", "key", "value")),
            (f"attn.qkv.{kind}",),
            (SPLIT,),
        )
        for kind in ("weight", "bias")
    ),
    rule("attention.self.relative_position_bias_table", "attn.relative_position_bias_table"),
    *layer("attention.output.dense", "attn.proj"),
    *layer("layernorm_after", "norm2"),
    *layer("intermediate.dense", "mlp.fc1"),
    *layer("output.dense", "mlp.fc2"),
)
SWIN = Table(
    model_types=("swin",),
    backbone=SwinTransformerBackbone,
    architecture="SwinModel",
    config=(
        SHAPE,
        key("patch_size", "patch_size", 4, side),
        key("embed_dim", "embed_dim", 96),
        key("depths", "depths", (2, 2, 6, 2)),
        key("num_heads", "num_heads", (3, 6, 12, 24)),
        key("window_size", "window_size", 7),
        key("mlp_ratio", "mlp_ratio", 4.0, float),
        key("qkv_bias", "qkv_bias", True),
        key("hidden_dropout_prob", "dropout_rate", 0.0, float),
        key("attention_probs_dropout_prob", "attention_dropout", 0.0, float),
        key("drop_path_rate", "drop_path", 0.1, float),
        fixed("hidden_act", "gelu"),
        fixed("use_absolute_embeddings", False),
        fixed("layer_norm_eps", 1e-5),
        constant(patch_norm=True),
    ),
    ignored=(
        "encoder_stride",
        "hidden_size",
        "num_layers",
        "out_features",
        "out_indices",
        "path_norm",
        "stage_names",
    ),
    weights=(
        *layer("embeddings.patch_embeddings.projection", "patch_embedding.proj"),
        *layer("embeddings.norm", "patch_embedding.norm"),
        *under("encoder.layers.{}.blocks.{}.", "stage_{}.blocks.{}.", BLOCK),
        *layer("encoder.layers.{}.downsample.norm", "stage_{}.downsample.norm"),
        rule(
            "encoder.layers.{}.downsample.reduction.weight",
            "stage_{}.downsample.reduction.weight",
        ),
        *layer("layernorm", "norm"),
    ),
    renames=(("swin.*", "*"),),
    check=check_windows,
    dropped=(
        "classifier.*",
        "decoder.*",
        "embeddings.mask_token",
        "hidden_states_norms.*",
        "*.relative_position_index",
    ),
)
TABLES = (SWIN,)
