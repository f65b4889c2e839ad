"""DINOv3."""

from __future__ import annotations

from typing import Any

from ...backbones.dinov3 import DINOV3Backbone
from ..checkpoints.table import (
    Key,
    Operation,
    Rule,
    Table,
    activation,
    constant,
    heads,
    key,
    layer,
    rule,
    under,
)
from .vit import ACTIVATIONS, SHAPE, side


def projection(theirs: str, ours: str, bias: str, **when: Any) -> tuple[Rule, ...]:
    """A linear map whose bias is there where the argument of that name says so."""
    return (
        rule(f"{theirs}.weight", f"{ours}.weight", **when),
        rule(f"{theirs}.bias", f"{ours}.bias", **{bias: True}, **when),
    )


# Of which there is an empty tensor there.
NO_REGISTERS = Operation(
    save=lambda tensors: [tensors[0], tensors[0][:, :0]], load=lambda tensors, shapes: [tensors[0]]
)
BLOCK = (
    *layer("norm1", "norm1"),
    *projection("attention.q_proj", "attention.q_proj", "use_query_bias"),
    *projection("attention.k_proj", "attention.k_proj", "use_key_bias"),
    *projection("attention.v_proj", "attention.v_proj", "use_value_bias"),
    *projection("attention.o_proj", "attention.o_proj", "use_proj_bias"),
    rule("layer_scale1.lambda1", "layer_scale1.weight"),
    *layer("norm2", "norm2"),
    *projection("mlp.gate_proj", "mlp.gate_proj", "use_mlp_bias", use_gated_mlp=True),
    *projection("mlp.up_proj", "mlp.up_proj", "use_mlp_bias"),
    *projection("mlp.down_proj", "mlp.down_proj", "use_mlp_bias"),
    rule("layer_scale2.lambda1", "layer_scale2.weight"),
)
DINOV3 = Table(
    model_types=("dinov3_vit",),
    backbone=DINOV3Backbone,
    architecture="DINOv3ViTModel",
    config=(
        SHAPE,
        key("patch_size", "patch_size", 16, side),
        key("num_hidden_layers", "num_layers", 12),
        heads("num_attention_heads", "num_heads", "hidden_dim"),
        key("hidden_size", "hidden_dim", 384),
        key("intermediate_size", "intermediate_dim", 1536),
        key("layerscale_value", "layer_scale_init_value", 1.0),
        key("num_register_tokens", "num_register_tokens", 0),
        activation("hidden_act", "hidden_activation", "gelu", ACTIVATIONS),
        key("use_gated_mlp", "use_gated_mlp", False),
        key("query_bias", "use_query_bias", True),
        key("key_bias", "use_key_bias", False),
        key("value_bias", "use_value_bias", True),
        key("proj_bias", "use_proj_bias", True),
        key("mlp_bias", "use_mlp_bias", True),
        key("attention_dropout", "attention_dropout", 0.0),
        key("drop_path_rate", "drop_path_rate", 0.0),
        key("layer_norm_eps", "layer_norm_eps", 1e-5),
        Key(
            {"rope_theta": 100.0, "rope_parameters.rope_theta": None},
            ("rope_theta",),
            lambda theta, inner: (theta if inner is None else inner,),
            lambda theta: (float(theta),),
        ),
        # Of its feature maps alone.
        key("apply_layernorm", "apply_layernorm", True),
        constant(use_mask_token=True),
    ),
    ignored=(
        "out_features",
        "out_indices",
        "stage_names",
        "reshape_hidden_states",
        # Of positions in training.
        "pos_embed_*",
        "rope_parameters.rope_type",
    ),
    weights=(
        rule("embeddings.cls_token", "embeddings.cls_token", num_register_tokens=bool),
        Rule(
            ("embeddings.cls_token", "embeddings.register_tokens"),
            ("embeddings.cls_token",),
            (NO_REGISTERS,),
            {"num_register_tokens": 0},
        ),
        rule("embeddings.mask_token", "embeddings.mask_token"),
        rule("embeddings.register_tokens", "embeddings.register_tokens"),
        *layer("embeddings.patch_embeddings", "embeddings.patch_embeddings.projection"),
        *under("layer.{}.", "encoder.layers.{}.", BLOCK),
        *layer("norm", "layernorm"),
    ),
    renames=(("model.layer.*", "layer.*"),),
)
TABLES = (DINOV3,)
