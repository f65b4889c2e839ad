"""DiffusionGemma: one stack of blocks that encodes prompts and denoises, with images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...backbones.diffusion_gemma import DiffusionGemmaBackbone
from ..checkpoints.table import Key, Table, constant, fixed, key, only, rule, under, within
from .embedding_gemma2 import save_heads
from .gemma import as_float
from .gemma4 import (
    LAYER_TYPES,
    LAYERS,
    ROPE,
    SCALAR,
    TEXT,
    TYPES,
    VISION,
    load_global,
    load_vision,
    save_vision,
)


def load_heads(
    head_dim: int,
    heads: int,
    global_dim: int | None,
    global_heads: int | None,
    of_layers: Mapping[str, Mapping[str, int]] | None,
    types: Sequence[str] | None,
    count: int,
    rope: Mapping[str, Any] | None,
) -> tuple[int, int | None]:
    return load_global(
        head_dim, heads, global_dim, global_heads, True, of_layers, types, count, rope
    )


def save_one_projection(dim: int | None, heads: int | None, *others: Any) -> tuple[Any, ...]:
    if heads is None:
        raise ValueError(
            "num_global_key_value_heads is None; transformers has one projection for keys and "
            "values of global layers"
        )
    return save_heads(dim, heads, *others)


def load_directions(kind: str | None) -> tuple[bool, bool]:
    if kind not in (None, "vision"):
        raise ValueError(f"use_bidirectional_attention is {kind!r}; only 'vision' can be computed")
    return False, kind == "vision"


def save_directions(everywhere: bool, images: bool) -> tuple[str | None]:
    if everywhere:
        raise ValueError("use_bidirectional_attention is True")
    return ("vision" if images else None,)


def save_experts(enabled: bool, *values: Any) -> tuple[Any, ...]:
    if not enabled:
        raise ValueError("enable_moe_block is False; transformers has experts in all models")
    return values


def save_images(encoder: Mapping[str, Any] | None, size: Any, hidden: int) -> tuple[Any, ...]:
    if encoder is None:
        raise ValueError("vision_encoder is None; transformers has it in all models")
    return save_vision(encoder, size, hidden)


CONFIG = (
    key("vocab_size", "vocabulary_size", 262144),
    key("num_hidden_layers", "num_layers", LAYERS),
    key("num_attention_heads", "num_query_heads", 8),
    key("num_key_value_heads", "num_key_value_heads", 4),
    key("hidden_size", "hidden_dim", 2304),
    key("intermediate_size", "intermediate_dim", 9216),
    key("head_dim", "head_dim", 256),
    key("attention_dropout", "dropout", 0.0),
    key("final_logit_softcapping", "final_logit_soft_cap", 30.0, save=as_float),
    key("rms_norm_eps", "layer_norm_epsilon", 1e-6),
    key("sliding_window", "sliding_window_size", 512),
    fixed("hidden_activation", "gelu_pytorch_tanh"),
    only("attention_bias", False),
    only("attn_logit_softcapping", None),
    only("tie_word_embeddings", True),
    only("pad_token_id", 0, None),
    constant(attention_logit_soft_cap=None),
    LAYER_TYPES,
    Key(
        {
            "head_dim": 256,
            "num_key_value_heads": 4,
            "global_head_dim": 512,
            "num_global_key_value_heads": None,
            "per_layer_config": None,
            **TYPES,
            "rope_parameters": None,
        },
        (
            "global_head_dim",
            "num_global_key_value_heads",
            "head_dim",
            "num_key_value_heads",
            "global_rope_partial_rotary_factor",
            "layer_types",
            "num_layers",
        ),
        load_heads,
        save_one_projection,
    ),
    ROPE,
    Key(
        {"use_bidirectional_attention": None},
        ("use_bidirectional_attention", "use_vision_bidirectional_attention"),
        load_directions,
        save_directions,
    ),
    Key(
        {"num_experts": None, "moe_intermediate_size": None, "top_k_experts": None},
        ("enable_moe_block", "num_experts", "expert_intermediate_dim", "num_experts_per_token"),
        lambda many, width, chosen: (True, many, width, chosen or 8),
        save_experts,
    ),
)
DIFFUSION_GEMMA = Table(
    model_types=("diffusion_gemma",),
    backbone=DiffusionGemmaBackbone,
    architecture="DiffusionGemmaForBlockDiffusion",
    config=(
        *within("text_config.", CONFIG),
        fixed("text_config.model_type", "diffusion_gemma_text"),
        only("tie_word_embeddings", True),
        Key(
            {"vision_config": None, "text_config.hidden_size": 2304},
            ("vision_encoder", "image_size", "hidden_dim"),
            lambda given, hidden: load_vision(given or {}, hidden),
            save_images,
        ),
        Key(
            {"image_token_id": 258880},
            ("vocabulary_size",),
            lambda token: (),
            lambda size: (min(258880, size - 1),),
        ),
    ),
    ignored=(
        "text_config.max_position_embeddings",
        "boi_token_id",
        "canvas_length",
        "eoi_token_id",
    ),
    weights=under(
        "model.",
        "",
        (
            *under("decoder.", "", TEXT),
            rule(
                "encoder.language_model.layers.{}.layer_scalar",
                "transformer_layers.{}.encoder_layer_scalar",
                SCALAR,
            ),
            *(
                rule(
                    f"decoder.self_conditioning.{name}.weight",
                    f"diffusion_self_conditioning.{name}.weight",
                )
                for name in ("pre_norm", "gate_proj", "up_proj", "down_proj")
            ),
            *under("encoder.", "", VISION),
        ),
    ),
    renames=tuple((f"{name}.*", f"model.{name}.*") for name in ("decoder", "encoder")),
    tied={
        "lm_head.weight": "model.decoder.embed_tokens.weight",
        "model.encoder.language_model.embed_tokens.weight": "model.decoder.embed_tokens.weight",
        "model.encoder.language_model.norm.weight": "model.decoder.norm.weight",
    },
)
TABLES = (DIFFUSION_GEMMA,)
