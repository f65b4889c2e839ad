"""SigLIP, and SigLIP 2 for images of one size."""

from __future__ import annotations

import warnings

from ...backbones.siglip import SigLIPBackbone, SigLIPTextEncoder, SigLIPVisionEncoder
from ..checkpoints.table import (
    FUSE,
    Key,
    Table,
    activation,
    fixed,
    key,
    layer,
    of,
    rule,
    under,
    within,
)
from .clip import (
    ACTIVATIONS,
    ATTENTION,
    IGNORED,
    INNER_IGNORED,
    INNER_NUMBERS,
    NUMBERED_POSITIONS,
    NUMBERS,
    TOKENS,
    blocks,
    pixels,
    words,
)


def load_epsilon(value: float) -> tuple[float]:
    if value != 1e-6:
        warnings.warn(
            f"layer_norm_eps is {value}, but the norm behind the blocks of images computes with "
            "1e-06.",
            stacklevel=2,
        )
    return (value,)


def save_epsilon(value: float) -> tuple[float]:
    if value != 1e-6:
        raise ValueError(
            f"layer_norm_epsilon is {value}; transformers has it in the norm behind the blocks, too"
        )
    return (value,)


TEXT_CONFIG = (
    *words(32000, 768, 64),
    *blocks(12, 12, 3072),
    activation("hidden_act", "intermediate_activation", "gelu_pytorch_tanh", ACTIVATIONS),
    key("layer_norm_eps", "layer_norm_epsilon", 1e-6),
    Key(
        {"projection_size": None, "hidden_size": 768},
        ("projection_dim",),
        lambda size, dim: (size or dim,),
        lambda dim: (dim,),
    ),
)
VISION_CONFIG = (
    *pixels(224, 16, 768),
    *blocks(12, 12, 3072),
    activation("hidden_act", "intermediate_activation", "gelu_pytorch_tanh", ACTIVATIONS),
    Key({"layer_norm_eps": 1e-6}, ("layer_norm_epsilon",), load_epsilon, save_epsilon),
    fixed("vision_use_head", True),
)
MLP = (*layer("mlp.fc1", "mlp.fc1"), *layer("mlp.fc2", "mlp.fc2"))
BLOCK = (
    *(
        one
        for letter, name in ATTENTION.items()
        for one in layer(f"self_attn.{letter}_proj", f"self_attn.{name}")
    ),
    *layer("self_attn.out_proj", "self_attn.attention_output"),
    *layer("layer_norm1", "layer_norm1"),
    *layer("layer_norm2", "layer_norm2"),
    *MLP,
)
BLOCKS = under("encoder.layers.{}.", "encoder_layers.{}.", BLOCK)
TEXT = (
    TOKENS,
    NUMBERED_POSITIONS,
    *BLOCKS,
    *layer("final_layer_norm", "post_layer_norm"),
    *layer("head", "head"),
)
VISION = (
    *layer("embeddings.patch_embedding", "embedding.patch_embedding"),
    NUMBERED_POSITIONS,
    *BLOCKS,
    *layer("post_layernorm", "post_layer_norm"),
    *under(
        "head.",
        "head.",
        (
            rule("probe", "probe"),
            *(
                rule(
                    f"attention.in_proj_{part}",
                    tuple(f"attention.{name}.{part}" for name in ATTENTION.values()),
                    FUSE,
                )
                for part in ("weight", "bias")
            ),
            *layer("attention.out_proj", "attention.attention_output"),
            *layer("layernorm", "layernorm"),
            *MLP,
        ),
    ),
)
SIGLIP = Table(
    model_types=("siglip",),
    backbone=SigLIPBackbone,
    parts={"vision_encoder": SigLIPVisionEncoder, "text_encoder": SigLIPTextEncoder},
    architecture="SiglipModel",
    config=(
        *within("vision_config.", VISION_CONFIG, "vision_encoder"),
        *within("text_config.", TEXT_CONFIG, "text_encoder"),
    ),
    ignored=INNER_IGNORED,
    weights=(
        *of("text_encoder", "text_model.", TEXT),
        *of("vision_encoder", "vision_model.", VISION),
        rule("logit_scale", "siglip_head.logit_scale"),
        rule("logit_bias", "siglip_head.logit_bias"),
    ),
    dropped=INNER_NUMBERS,
)
SIGLIP_TEXT = Table(
    model_types=("siglip_text_model", "siglip2_text_model"),
    backbone=SigLIPTextEncoder,
    architecture="SiglipTextModel",
    config=TEXT_CONFIG,
    ignored=IGNORED,
    weights=TEXT,
    renames=(("text_model.*", "*"),),
    dropped=NUMBERS,
)
SIGLIP_VISION = Table(
    model_types=("siglip_vision_model",),
    backbone=SigLIPVisionEncoder,
    architecture="SiglipVisionModel",
    config=VISION_CONFIG,
    ignored=IGNORED,
    weights=VISION,
    renames=(("vision_model.*", "*"),),
    dropped=NUMBERS,
)
TABLES = (SIGLIP, SIGLIP_TEXT, SIGLIP_VISION)
