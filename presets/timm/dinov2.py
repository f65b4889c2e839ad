"""DINOv2, with registers and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...backbones.dinov2 import DINOV2Backbone
from ..checkpoints.table import (
    FUSE,
    Arguments,
    Key,
    Operation,
    Rule,
    Table,
    Tensors,
    constant,
    key,
    layer,
    override,
    rule,
    shared,
    under,
)
from ..transformers.dinov2 import positions
from ..transformers.vit import channels_last
from .vit import load_shape as load_sizes

# Width, blocks, heads.
SIZES = {
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "giant": (1536, 40, 24),
}


def variants(name: str, registers: int) -> dict[str, dict[str, Any]]:
    return {
        name.format(size): {
            "patch_size": 14,
            "num_layers": layers,
            "hidden_dim": width,
            "num_heads": heads,
            "intermediate_dim": 4 * width,
            "layer_scale_init_value": 1e-5,
            "num_register_tokens": registers,
            "use_mask_token": False,
            "use_swiglu_ffn": size == "giant",
            "image_shape": (518, 518, 3),
            "position_embedding_shape": (518, 518),
            "antialias_in_interpolation": registers > 0,  # as they were trained
        }
        for size, (width, layers, heads) in SIZES.items()
    }


def load_shape(*given: Any) -> tuple[Any, ...]:
    return tuple(part for shape in load_sizes(*given) for part in (shape[:2], shape))


def save_shape(
    table: Sequence[int], shape: Sequence[int], data_format: str | None
) -> tuple[Any, ...]:
    size = list(channels_last(table, data_format)[:2])
    return size, channels_last(shape, data_format)[2]


def folded(arguments: Arguments) -> Operation:
    """There the class token has its position's vector in itself; here that one is then zero."""
    inner = positions(arguments)

    def save(tensors: Tensors) -> list[torch.Tensor]:
        (table,) = inner.save(tensors[1:])
        return [tensors[0] + table[:, :1], table[:, 1:]]

    def load(tensors: Tensors, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
        token, table = tensors
        table = torch.cat((torch.zeros_like(token), table), dim=1)
        return [token, *inner.load([table], shapes[1:])]

    return Operation(save, load)


CONFIG = (
    Key(
        {
            "model_args.img_size": None,
            "model_args.in_chans": None,
            "pretrained_cfg.input_size": None,
        },
        ("position_embedding_shape", "image_shape", "data_format"),
        load_shape,
        save_shape,
    ),
    shared(
        ("model_args.pos_drop_rate", "model_args.proj_drop_rate", "model_args.attn_drop_rate"),
        "dropout_rate",
        0.0,
    ),
    key("model_args.drop_path_rate", "drop_path_rate", 0.0),
    override("model_args.init_values", "layer_scale_init_value"),
    constant(apply_layernorm=False),
)
MHA = "attention.attention"
BLOCK = (
    *layer("norm1", "norm1"),
    *(
        rule(
            f"attn.qkv.{kind}",
            tuple(f"{MHA}.{name}.{kind}" for name in ("query", "key", "value")),
            FUSE,
        )
        for kind in ("weight", "bias")
    ),
    *layer("attn.proj", f"{MHA}.attention_output"),
    rule("ls1.gamma", "layer_scale1.weight"),
    *layer("norm2", "norm2"),
    *(
        rule(f"mlp.{theirs}.{kind}", f"mlp.{ours}.{kind}", use_swiglu_ffn=packed)
        for packed, names in ((False, ("fc1", "fc2")), (True, ("weights_in", "weights_out")))
        for theirs, ours in zip(("fc1", "fc2"), names)
        for kind in ("weight", "bias")
    ),
    rule("ls2.gamma", "layer_scale2.weight"),
)
TABLE = ("embeddings.position_embeddings", "embeddings.interpolated_position_embeddings")
WEIGHTS = (
    *layer("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    *under("blocks.{}.", "encoder.layers.{}.", BLOCK),
    *layer("norm", "layernorm"),
)
DINOV2 = Table(
    backbone=DINOV2Backbone,
    variants=variants("vit_{}_patch14_dinov2", 0),
    config=CONFIG,
    weights=(
        rule("cls_token", "embeddings.cls_token"),
        rule("pos_embed", TABLE, positions),
        *WEIGHTS,
    ),
    dropped=("head.*",),
)
REGISTERS = Table(
    backbone=DINOV2Backbone,
    variants=variants("vit_{}_patch14_reg4_dinov2", 4),
    config=CONFIG,
    weights=(
        Rule(("cls_token", "pos_embed"), ("embeddings.cls_token", *TABLE), (folded,)),
        rule("reg_token", "embeddings.register_tokens"),
        *WEIGHTS,
    ),
    dropped=("head.*",),
)
TABLES = (DINOV2, REGISTERS)
