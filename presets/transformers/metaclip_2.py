"""MetaCLIP 2."""

from __future__ import annotations

from ...backbones.metaclip_2 import (
    EOS,
    MetaCLIP2Backbone,
    MetaCLIP2TextEncoder,
    MetaCLIP2VisionEncoder,
)
from ..checkpoints.table import Table, demanded, key, layer, of, rule, within
from .clip import (
    BLOCKS,
    IGNORED,
    INNER_IGNORED,
    INNER_NUMBERS,
    NUMBERS,
    PATCHES,
    POSITIONS,
    SCALAR,
    TEXT,
    TEXT_CONFIG,
    VISION_CONFIG,
)

VISION = (*PATCHES, POSITIONS, *layer("pre_layrnorm", "pre_layer_norm"), *BLOCKS)
METACLIP_2 = Table(
    model_types=("metaclip_2",),
    backbone=MetaCLIP2Backbone,
    parts={"vision_encoder": MetaCLIP2VisionEncoder, "text_encoder": MetaCLIP2TextEncoder},
    architecture="MetaClip2Model",
    config=(
        *within("vision_config.", VISION_CONFIG, "vision_encoder"),
        *within("text_config.", TEXT_CONFIG, "text_encoder"),
        key("projection_dim", "projection_dim", 512),
        demanded("text_config.eos_token_id", 49407, EOS),
    ),
    ignored=("logit_scale_init_value", *INNER_IGNORED),
    weights=(
        *of("text_encoder", "text_model.", TEXT),
        *of("vision_encoder", "vision_model.", VISION),
        *layer("vision_model.post_layernorm", "vision_post_layer_norm"),
        rule("visual_projection.weight", "vision_projection.weight"),
        rule("text_projection.weight", "text_projection.weight"),
        rule("logit_scale", "metaclip_2_head.logit_scale", SCALAR),
    ),
    dropped=INNER_NUMBERS,
)
METACLIP_2_TEXT = Table(
    model_types=("metaclip_2_text_model",),
    backbone=MetaCLIP2TextEncoder,
    architecture="MetaClip2TextModel",
    config=TEXT_CONFIG,
    ignored=IGNORED,
    weights=TEXT,
    renames=(("text_model.*", "*"),),
    dropped=(*NUMBERS, "text_projection.weight"),
)
METACLIP_2_VISION = Table(
    model_types=("metaclip_2_vision_model",),
    backbone=MetaCLIP2VisionEncoder,
    architecture="MetaClip2VisionModel",
    config=VISION_CONFIG,
    ignored=IGNORED,
    weights=VISION,
    renames=(("vision_model.*", "*"),),
    # The norm of the pooled output is MetaCLIP2Backbone's.
    dropped=(*NUMBERS, "post_layernorm.*", "visual_projection.weight"),
)
TABLES = (METACLIP_2, METACLIP_2_TEXT, METACLIP_2_VISION)
