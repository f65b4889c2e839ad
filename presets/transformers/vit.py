"""ViT, and what other vision transformers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...backbones.vit import ViTBackbone
from ..checkpoints.table import (
    BATCHED,
    Key,
    Table,
    constant,
    fixed,
    heads,
    key,
    layer,
    rule,
    under,
)


def both(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of a size given for both, or as two."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def one(size: int | Sequence[int]) -> int | list[int]:
    """The one size of a square."""
    height, width = both(size)
    return height if height == width else [height, width]


def side(size: int | Sequence[int], name: str = "patch_size") -> int:
    """That of a square."""
    height, width = both(size)
    if height != width:
        raise ValueError(f"{name} is {size}; only squares can be computed")
    return height


def channels_last(shape: Sequence[Any], data_format: str | None) -> Sequence[Any]:
    """Height, width and channels."""
    return (*shape[1:], shape[0]) if data_format == "channels_first" else shape


def save_shape(shape: Sequence[int | None], data_format: str | None) -> tuple[Any, ...]:
    """Where any size will do the default one stands for it."""
    height, width, channels = channels_last(shape, data_format)
    return one((height or 224, width or 224)), channels or 3


# Names there → here; of several for one the first is written.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "keras_hub>gelu_approximate",
    "gelu_new": "keras_hub>gelu_approximate",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Sizes and channels of the images.
SHAPE = Key(
    {"image_size": 224, "num_channels": 3},
    ("image_shape", "data_format"),
    lambda size, channels: ((*both(size), channels),),
    save_shape,
)
CONFIG = (
    SHAPE,
    key("patch_size", "patch_size", 16, both, one),
    key("num_hidden_layers", "num_layers", 12),
    heads("num_attention_heads", "num_heads", "hidden_dim"),
    key("hidden_size", "hidden_dim", 768),
    key("hidden_dropout_prob", "dropout_rate", 0.0),
    key("attention_probs_dropout_prob", "attention_dropout", 0.0),
    key("layer_norm_eps", "layer_norm_epsilon", 1e-12),
    # Without these biases KerasHub has none of the attention's output, either.
    fixed("qkv_bias", True),
    constant(use_mha_bias=True),
    fixed("hidden_act", "gelu"),
)
IGNORED = ("encoder_stride", "pooler_*")
ATTENTION = (
    *layer("attention.attention.query", "mha.query"),
    *layer("attention.attention.key", "mha.key"),
    *layer("attention.attention.value", "mha.value"),
    *layer("attention.output.dense", "mha.attention_output"),
    *layer("layernorm_before", "ln_1"),
    *layer("layernorm_after", "ln_2"),
)
BLOCK = (
    *ATTENTION,
    *layer("intermediate.dense", "mlp.dense_1"),
    *layer("output.dense", "mlp.dense_2"),
)
VIT = Table(
    model_types=("vit",),
    backbone=ViTBackbone,
    architecture="ViTModel",
    config=(
        *CONFIG,
        key("intermediate_size", "mlp_dim", 3072),
        constant(use_mlp_bias=True, use_class_token=True, use_patch_bias=True),
    ),
    ignored=IGNORED,
    weights=(
        *under(
            "embeddings.",
            "vit_patching_and_embedding.",
            (
                rule("cls_token", "class_token"),
                rule("position_embeddings", "position_embedding.weight", BATCHED),
                *layer("patch_embeddings.projection", "patch_embedding"),
            ),
        ),
        *under("encoder.layer.{}.", "vit_encoder.encoder_layers.{}.", BLOCK),
        *layer("layernorm", "vit_encoder.ln"),
    ),
    renames=(("vit.*", "*"),),
    dropped=("embeddings.mask_token", "pooler.*", "classifier.*", "decoder.*"),
)
TABLES = (VIT,)
