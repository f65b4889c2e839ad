"""DeiT with its distillation token."""

from __future__ import annotations

from ...backbones.deit import DeiTBackbone
from ..checkpoints.table import Table, key, layer, rule, under
from .vit import ATTENTION, CONFIG, IGNORED

DEIT = Table(
    model_types=("deit",),
    backbone=DeiTBackbone,
    architecture="DeiTModel",
    config=(*CONFIG, key("intermediate_size", "intermediate_dim", 3072)),
    ignored=IGNORED,
    weights=(
        *under(
            "embeddings.",
            "deit_patching_and_embedding.",
            (
                rule("cls_token", "class_token"),
                rule("distillation_token", "distillation_token"),
                rule("position_embeddings", "position_embedding"),
                *layer("patch_embeddings.projection", "patch_embedding"),
            ),
        ),
        *under(
            "encoder.layer.{}.",
            "deit_encoder.encoder_layers.{}.",
            (
                *ATTENTION,
                *layer("intermediate.dense", "mlp.dense"),
                *layer("output.dense", "output_layer.output"),
            ),
        ),
        *layer("layernorm", "deit_encoder.ln"),
    ),
    renames=(("deit.*", "*"),),
    dropped=(
        "embeddings.mask_token",
        "pooler.*",
        "classifier.*",
        "cls_classifier.*",
        "distillation_classifier.*",
        "decoder.*",
    ),
)
TABLES = (DEIT,)
