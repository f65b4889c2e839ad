"""DeiT with its distillation token; without one it is a ViT."""

from __future__ import annotations

from ...backbones.deit import DeiTBackbone
from ..checkpoints.table import Table, key, layer, rule, under
from .vit import ATTENTION, CONFIG, variant

NAMES = (
    *(f"deit_{size}_distilled_patch16_224" for size in ("tiny", "small", "base")),
    "deit_base_distilled_patch16_384",
)
DEIT = Table(
    backbone=DeiTBackbone,
    variants={name: variant(name.replace("_distilled", ""), "intermediate_dim") for name in NAMES},
    config=(*CONFIG, key("model_args.pos_drop_rate", "dropout_rate", 0.0)),
    weights=(
        rule("cls_token", "deit_patching_and_embedding.class_token"),
        rule("dist_token", "deit_patching_and_embedding.distillation_token"),
        rule("pos_embed", "deit_patching_and_embedding.position_embedding"),
        *layer("patch_embed.proj", "deit_patching_and_embedding.patch_embedding"),
        *under(
            "blocks.{}.",
            "deit_encoder.encoder_layers.{}.",
            (*ATTENTION, *layer("mlp.fc1", "mlp.dense"), *layer("mlp.fc2", "output_layer.output")),
        ),
        *layer("norm", "deit_encoder.ln"),
    ),
    dropped=("head.*", "head_dist.*"),
)
TABLES = (DEIT,)
