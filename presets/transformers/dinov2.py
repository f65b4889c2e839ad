"""DINOv2, with registers and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...backbones.dinov2 import DINOV2Backbone
from ...backbones.layers.vision import resample_positions
from ..checkpoints.table import (
    Arguments,
    Key,
    Operation,
    Table,
    Tensors,
    constant,
    fixed,
    heads,
    key,
    layer,
    rule,
    shared,
    under,
)
from .vit import both, channels_last, side


def load_shape(size: int | Sequence[int], channels: int) -> tuple[Any, ...]:
    """As in KerasHub, the images' size is that of the positions."""
    return both(size), (*both(size), channels)


def save_shape(
    table: Sequence[int], shape: Sequence[int], data_format: str | None
) -> tuple[Any, ...]:
    """transformers resamples positions for any images, from those of a square."""
    pixels = side(channels_last(table, data_format), "position_embedding_shape")
    return pixels, channels_last(shape, data_format)[2]


def load_width(width: int, ratio: float) -> tuple[Any, ...]:
    return width, int(width * ratio)


def save_width(width: int, inner: int) -> tuple[Any, ...]:
    if inner % width:
        raise ValueError(f"intermediate_dim {inner} is no multiple of hidden_dim {width}")
    return width, inner // width


def positions(arguments: Arguments) -> Operation:
    """The preset's positions, and those for the model's images: one there."""
    patch = arguments["patch_size"]
    grids = [
        [size // patch for size in channels_last(arguments[name], arguments["data_format"])[:2]]
        for name in ("position_embedding_shape", "image_shape")
    ]
    antialias = arguments["antialias_in_interpolation"]

    def resample(table: torch.Tensor, old: list[int], new: list[int]) -> torch.Tensor:
        return resample_positions(table[0], old, new, 1, antialias)[None]

    def save(tensors: Tensors) -> list[torch.Tensor]:
        table, current = tensors
        if table.is_meta or torch.equal(resample(table, *grids), current):
            return [table]
        return [resample(current, *reversed(grids))]  # it was trained

    return Operation(
        save=save, load=lambda tensors, shapes: [tensors[0], resample(tensors[0], *grids)]
    )


CONFIG = (
    Key(
        {"image_size": 224, "num_channels": 3},
        ("position_embedding_shape", "image_shape", "data_format"),
        load_shape,
        save_shape,
    ),
    key("num_hidden_layers", "num_layers", 12),
    heads("num_attention_heads", "num_heads", "hidden_dim"),
    Key(
        {"hidden_size": 768, "mlp_ratio": 4},
        ("hidden_dim", "intermediate_dim"),
        load_width,
        save_width,
    ),
    shared(("hidden_dropout_prob", "attention_probs_dropout_prob"), "dropout_rate", 0.0),
    key("drop_path_rate", "drop_path_rate", 0.0),
    key("layerscale_value", "layer_scale_init_value", 1.0),
    key("use_swiglu_ffn", "use_swiglu_ffn", False),
    # Of its feature maps alone.
    key("apply_layernorm", "apply_layernorm", True),
    fixed("qkv_bias", True),
    fixed("hidden_act", "gelu"),
    fixed("layer_norm_eps", 1e-6),
)


def feed_forward(names: Sequence[str], use_swiglu_ffn: bool) -> tuple[Any, ...]:
    return tuple(
        rule(f"mlp.{name}.{kind}", f"mlp.{name}.{kind}", use_swiglu_ffn=use_swiglu_ffn)
        for name in names
        for kind in ("weight", "bias")
    )


WEIGHTS = (
    rule("embeddings.cls_token", "embeddings.cls_token"),
    rule("embeddings.mask_token", "embeddings.mask_token", use_mask_token=True),
    rule(
        "embeddings.position_embeddings",
        ("embeddings.position_embeddings", "embeddings.interpolated_position_embeddings"),
        positions,
    ),
    *layer("embeddings.patch_embeddings.projection", "embeddings.patch_embeddings.projection"),
    *under(
        "encoder.layer.{}.",
        "encoder.layers.{}.",
        (
            *layer("norm1", "norm1"),
            *layer("attention.attention.query", "attention.attention.query"),
            *layer("attention.attention.key", "attention.attention.key"),
            *layer("attention.attention.value", "attention.attention.value"),
            *layer("attention.output.dense", "attention.attention.attention_output"),
            rule("layer_scale1.lambda1", "layer_scale1.weight"),
            *layer("norm2", "norm2"),
            *feed_forward(("fc1", "fc2"), False),
            *feed_forward(("weights_in", "weights_out"), True),
            rule("layer_scale2.lambda1", "layer_scale2.weight"),
        ),
    ),
    *layer("layernorm", "layernorm"),
)
IGNORED = ("out_features", "out_indices", "stage_names", "reshape_hidden_states")
DINOV2 = Table(
    model_types=("dinov2",),
    backbone=DINOV2Backbone,
    architecture="Dinov2Model",
    config=(
        *CONFIG,
        key("patch_size", "patch_size", 14),
        key("use_mask_token", "use_mask_token", True),
        constant(num_register_tokens=0, antialias_in_interpolation=False),
    ),
    ignored=IGNORED,
    weights=WEIGHTS,
    renames=(("dinov2.*", "*"),),
    dropped=("classifier.*",),
)
REGISTERS = Table(
    model_types=("dinov2_with_registers",),
    backbone=DINOV2Backbone,
    architecture="Dinov2WithRegistersModel",
    config=(
        *CONFIG,
        key("patch_size", "patch_size", 16),
        key("num_register_tokens", "num_register_tokens", 4),
        constant(use_mask_token=True, antialias_in_interpolation=True),
    ),
    ignored=IGNORED,
    weights=(*WEIGHTS, rule("embeddings.register_tokens", "embeddings.register_tokens")),
    renames=(("dinov2_with_registers.*", "*"),),
    dropped=("classifier.*",),
)
TABLES = (DINOV2, REGISTERS)
