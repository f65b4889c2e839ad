"""DINOv3, and LingBot-Vision, which is the same network."""

from __future__ import annotations

from typing import Any

from ...backbones.dinov3 import DINOV3Backbone
from ..checkpoints.table import (
    FUSE,
    Table,
    constant,
    key,
    layer,
    only,
    override,
    rule,
    under,
)
from .vit import SHAPE

# Width, blocks, heads, width inside the feed-forward networks, and whether these have a gate.
SIZES = {
    "tiny": (192, 12, 3, 768, False),
    "small": (384, 12, 6, 1536, False),
    "small_plus": (384, 12, 6, 1536, True),
    "base": (768, 12, 12, 3072, False),
    "large": (1024, 24, 16, 4096, False),
    "huge_plus": (1280, 32, 20, 5120, True),
    "giant": (1536, 40, 24, 4096, True),
    "7b": (4096, 40, 32, 8192, True),
}
# Sizes → whether queries and values have biases.
NAMES = {
    **{f"vit_{size}_patch16_dinov3": False for size in SIZES if size not in ("tiny", "giant")},
    **{f"vit_{size}_patch16_dinov3_qkvb": True for size in SIZES if size not in ("giant", "7b")},
    **{f"vit_{size}_patch16_lingbot": True for size in ("small", "base", "large")},
    "vit_giant_patch16_lingbot": False,
}


def variant(name: str, bias: bool) -> dict[str, Any]:
    width, layers, heads, inner, gated = SIZES[name.removeprefix("vit_").partition("_patch")[0]]
    return {
        "patch_size": 16,
        "num_layers": layers,
        "hidden_dim": width,
        "num_heads": heads,
        "intermediate_dim": inner,
        "layer_scale_init_value": 1e-5,
        "num_register_tokens": 4,
        "use_mask_token": False,
        "hidden_activation": "silu" if gated else "gelu",
        "use_gated_mlp": gated,
        "use_query_bias": bias,
        "use_key_bias": False,
        "use_value_bias": bias,
        "image_shape": (256, 256, 3),
    }


BLOCK = (
    *layer("norm1", "norm1"),
    rule(
        "attn.qkv.weight",
        tuple(f"attention.{name}.weight" for name in ("q_proj", "k_proj", "v_proj")),
        FUSE,
    ),
    rule("attn.q_bias", "attention.q_proj.bias"),
    rule("attn.v_bias", "attention.v_proj.bias"),
    *layer("attn.proj", "attention.o_proj"),
    rule("gamma_1", "layer_scale1.weight"),
    *layer("norm2", "norm2"),
    *(
        rule(f"mlp.{theirs}.{kind}", f"mlp.{ours}.{kind}", use_gated_mlp=gated)
        for gated, names in (
            (False, {"fc1": "up_proj"}),
            (True, {"fc1_g": "gate_proj", "fc1_x": "up_proj"}),
        )
        for theirs, ours in names.items()
        for kind in ("weight", "bias")
    ),
    *layer("mlp.fc2", "mlp.down_proj"),
    rule("gamma_2", "layer_scale2.weight"),
)
DINOV3 = Table(
    backbone=DINOV3Backbone,
    variants={name: variant(name, bias) for name, bias in NAMES.items()},
    config=(
        SHAPE,
        key("model_args.attn_drop_rate", "attention_dropout", 0.0),
        key("model_args.drop_path_rate", "drop_path_rate", 0.0),
        override("model_args.init_values", "layer_scale_init_value"),
        override("model_args.rope_temperature", "rope_theta"),
        # Dropout that KerasHub does not have.
        only("model_args.pos_drop_rate", 0.0),
        only("model_args.proj_drop_rate", 0.0),
        constant(use_proj_bias=True, use_mlp_bias=True, layer_norm_eps=1e-5, apply_layernorm=False),
    ),
    weights=(
        rule("cls_token", "embeddings.cls_token"),
        rule("reg_token", "embeddings.register_tokens"),
        *layer("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        *under("blocks.{}.", "encoder.layers.{}.", BLOCK),
        *layer("norm", "layernorm"),
    ),
    # The angles of rotary positions are computed.
    dropped=("head.*", "rope.*"),
)
TABLES = (DINOV3,)
