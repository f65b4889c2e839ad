"""Mix Transformer, the encoder of SegFormer. The decoder is dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...backbones.mit import MiTBackbone
from ..checkpoints.table import Key, Table, fixed, key, layer, tanh_gelu, under


def load_mlp(ratios: Sequence[float]) -> tuple[Any, ...]:
    if any(ratio != 4 for ratio in ratios):
        raise ValueError(f"mlp_ratios is {ratios}; only 4 can be computed")
    return ()


def save_mlp(num_layers: int) -> tuple[Any, ...]:
    return ([4] * num_layers,)


def save_channels(
    shape: Sequence[int | None], strides: Sequence[int], patches: Sequence[int], num_layers: int
) -> tuple[Any, ...]:
    """Any images are taken there, but KerasHub cuts maps larger than `size // stride`."""
    even = any(patch % 2 == 0 for patch in patches[:num_layers])
    stride = math.prod(strides[:num_layers])
    if any(side is not None and (even or side % stride) for side in shape[:2]):
        raise ValueError(f"image_shape {shape} is cut by layerwise_strides {strides}")
    return (shape[2] or 3,)


ENCODER = (
    *layer("patch_embeddings.{}.proj", "stage{}.embedding.proj"),
    *layer("patch_embeddings.{}.layer_norm", "stage{}.embedding.norm"),
    *under(
        "block.{}.{}.",
        "stage{}.blocks.{}.",
        (
            *layer("layer_norm_1", "norm1"),
            *layer("attention.self.query", "attn.q"),
            *layer("attention.self.key", "attn.k"),
            *layer("attention.self.value", "attn.v"),
            *layer("attention.self.sr", "attn.sr"),
            *layer("attention.self.layer_norm", "attn.norm"),
            *layer("attention.output.dense", "attn.proj"),
            *layer("layer_norm_2", "norm2"),
            *layer("mlp.dense1", "mlp.fc1"),
            *layer("mlp.dwconv.dwconv", "mlp.dwconv"),
            *layer("mlp.dense2", "mlp.fc2"),
        ),
    ),
    *layer("layer_norm.{}", "stage{}.norm"),
)
MIT = Table(
    model_types=("segformer",),
    backbone=MiTBackbone,
    architecture="SegformerModel",
    config=(
        key("num_encoder_blocks", "num_layers", 4),
        key("depths", "layerwise_depths", (2, 2, 2, 2)),
        key("num_attention_heads", "layerwise_num_heads", (1, 2, 5, 8)),
        key("hidden_sizes", "hidden_dims", (32, 64, 160, 256)),
        key("sr_ratios", "layerwise_sr_ratios", (8, 4, 2, 1)),
        key("patch_sizes", "layerwise_patch_sizes", (7, 3, 3, 3)),
        key("strides", "layerwise_strides", (4, 2, 2, 2)),
        key("drop_path_rate", "max_drop_path_rate", 0.1),
        Key(
            {"num_channels": 3},
            ("image_shape", "layerwise_strides", "layerwise_patch_sizes", "num_layers"),
            lambda channels: ((None, None, channels),),
            save_channels,
        ),
        Key({"mlp_ratios": (4, 4, 4, 4)}, ("num_layers",), load_mlp, save_mlp),
        tanh_gelu("hidden_act", "gelu_pytorch_tanh", "gelu_new"),
        fixed("reshape_last_stage", True),
    ),
    # It has no effect on norms there; dropout is 0.1 here.
    ignored=(
        "layer_norm_eps",
        "*dropout_prob",
        "decoder_hidden_size",
        "downsampling_rates",
        "image_size",
        "semantic_loss_ignore_index",
    ),
    weights=under("encoder.", "", ENCODER),
    renames=(("segformer.*", "*"),),
    dropped=("decode_head.*", "classifier.*"),
)
TABLES = (MIT,)
