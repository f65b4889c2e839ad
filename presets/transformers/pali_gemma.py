"""PaliGemma and PaliGemma 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...backbones.pali_gemma import PaliGemmaBackbone
from ..checkpoints.table import (
    Key,
    Table,
    assumed,
    constant,
    fixed,
    heads,
    key,
    layer,
    only,
    rule,
    under,
    within,
)
from .gemma import (
    ACTIVATIONS,
    BLOCK,
    as_float,
    check_layer_types,
    half,
    load_query_scale,
    save_query_scale,
)
from .gemma3 import TOWER

# Beyond the vocabulary here, where images stand before the text of themselves.
IMAGE_TOKEN = 257152
KINDS = ("gemma", "gemma2")


def either_kind(
    theirs: str,
    ours: str,
    gemma: Any,
    gemma2: Any,
    load: Callable[[Any], Any] = lambda value: value,
    save: Callable[[Any], Any] = lambda value: value,
) -> Key:
    """A key whose default value is the text model's."""

    def choose(value: Any, kind: str) -> tuple[Any]:
        return (load((gemma, gemma2)[kind == "gemma2"] if value is None else value),)

    return Key({theirs: None, "model_type": "gemma"}, (ours,), choose, lambda value: (save(value),))


def load_kind(kind: str) -> tuple[bool, bool, bool]:
    if kind not in KINDS:
        raise ValueError(f"text_config.model_type is {kind!r}; only gemma and gemma2 are known")
    return (kind == "gemma2",) * 3


def save_kind(feed_forward: bool, attention: bool, windows: bool) -> tuple[str]:
    if not feed_forward == attention == windows:
        raise ValueError(
            f"use_post_ffw_norm is {feed_forward}, use_post_attention_norm {attention} and "
            f"use_sliding_window_attention {windows}; transformers has all of them (gemma2) or "
            "none (gemma)"
        )
    return (KINDS[feed_forward],)


def load_soft_cap(cap: Any, kind: str) -> tuple[Any]:
    return (cap if kind == "gemma2" else None,)


def save_soft_cap(cap: Any, gemma2: bool) -> tuple[Any, ...]:
    if cap is not None and not gemma2:
        raise ValueError(f"attention_logit_soft_cap is {cap}; only gemma2 has one")
    return (as_float(cap),) if gemma2 else ()


def load_layer_types(kinds: Any, count: int | None, kind: str) -> tuple[()]:
    return check_layer_types(kinds, count or 26) if kind == "gemma2" else ()


def load_scale(scalar: Any, kind: str, head_dim: Any, width: Any, count: Any) -> tuple[bool]:
    if kind == "gemma":
        return (True,)
    return load_query_scale(scalar, head_dim or 256, width or 2304, count or 8)


def save_scale(
    normalize: bool, gemma2: bool, head_dim: int, width: int, count: int
) -> tuple[Any, ...]:
    if gemma2:
        return save_query_scale(normalize, head_dim, width, count)
    return ()  # it has no effect, and the other one no key for it


TEXT = (
    Key(
        {"model_type": "gemma"},
        ("use_post_ffw_norm", "use_post_attention_norm", "use_sliding_window_attention"),
        load_kind,
        save_kind,
    ),
    either_kind("vocab_size", "vocabulary_size", 256000, 256000),
    either_kind("num_hidden_layers", "num_layers", 28, 26),
    either_kind("num_attention_heads", "num_query_heads", 16, 8),
    either_kind("num_key_value_heads", "num_key_value_heads", 16, 4),
    either_kind("hidden_size", "hidden_dim", 3072, 2304),
    either_kind(
        "intermediate_size", "intermediate_dim", 24576, 9216, lambda size: size * 2, save=half
    ),
    key("head_dim", "head_dim", 256),
    key("attention_dropout", "dropout", 0.0),
    Key(
        {"attn_logit_softcapping": 50.0, "model_type": "gemma"},
        ("attention_logit_soft_cap", "use_post_ffw_norm"),
        load_soft_cap,
        save_soft_cap,
    ),
    # An absent one and none are not the same.
    Key(
        {"final_logit_softcapping": "", "model_type": "gemma"},
        ("final_logit_soft_cap", "use_post_ffw_norm"),
        lambda cap, kind: (cap if cap != "" else (30.0 if kind == "gemma2" else None),),
        lambda cap, gemma2: (as_float(cap),) if gemma2 or cap is not None else (),
    ),
    # There it does not narrow the prompt.
    Key(
        {"sliding_window": 4096},
        ("sliding_window_size", "use_sliding_window_attention"),
        lambda size: (size,),
        lambda size, used: (size,) if used else (),
    ),
    Key(
        {"layer_types": None, "num_hidden_layers": None, "model_type": "gemma"},
        (),
        load_layer_types,
        tuple,
    ),
    Key(
        {
            "query_pre_attn_scalar": 256,
            "model_type": "gemma",
            "head_dim": None,
            "hidden_size": None,
            "num_attention_heads": None,
        },
        (
            "query_head_dim_normalize",
            "use_post_ffw_norm",
            "head_dim",
            "hidden_dim",
            "num_query_heads",
        ),
        load_scale,
        save_scale,
    ),
    assumed("rms_norm_eps", 1e-6),
    only("hidden_act", None, *ACTIVATIONS),
    only("hidden_activation", None, *ACTIVATIONS),
    fixed("rope_parameters.rope_theta", 1e4),
    fixed("rope_parameters.rope_type", "default"),
    only("rope_theta", 1e4),
    only("rope_scaling", None),
    only("attention_bias", False),
    only("tie_word_embeddings", True),
)
VISION = (
    key("image_size", "image_size", 224),
    key("patch_size", "vit_patch_size", 16),
    heads("num_attention_heads", "vit_num_heads", "vit_hidden_dim", 12),
    key("hidden_size", "vit_hidden_dim", 768),
    key("num_hidden_layers", "vit_num_layers", 12),
    key("intermediate_size", "vit_intermediate_dim", 3072),
    fixed("hidden_act", "gelu_pytorch_tanh"),
    fixed("num_channels", 3),
    assumed("layer_norm_eps", 1e-6),
    Key({"vision_use_head": True}, (), lambda _: (), lambda: (False,)),
)
NORMS = (
    rule("post_attention_layernorm.weight", "pre_ffw_norm.weight", use_post_ffw_norm=False),
    rule("post_attention_layernorm.weight", "post_attention_norm.weight", use_post_ffw_norm=True),
    rule("pre_feedforward_layernorm.weight", "pre_ffw_norm.weight", use_post_ffw_norm=True),
    rule("post_feedforward_layernorm.weight", "post_ffw_norm.weight", use_post_ffw_norm=True),
)
PALI_GEMMA = Table(
    model_types=("paligemma",),
    backbone=PaliGemmaBackbone,
    architecture="PaliGemmaForConditionalGeneration",
    config=(
        *within("text_config.", TEXT),
        *within("vision_config.", VISION),
        fixed("vision_config.model_type", "siglip_vision_model"),
        Key(
            {"projection_dim": 2048, "hidden_size": 2048},
            ("hidden_dim",),
            lambda *sizes: (),
            lambda size: (size, size),
        ),
        Key(
            {"image_token_index": IMAGE_TOKEN},
            ("vocabulary_size",),
            lambda index: (),
            lambda size: (min(IMAGE_TOKEN, size),),
        ),
        constant(vit_pooling=None, vit_classifier_activation=None, layer_norm_epsilon=1e-6),
        Key({}, ("vit_name",), lambda: (None,), lambda name: ()),
        only("tie_word_embeddings", True),
    ),
    ignored=(
        "ignore_index",
        "vocab_size",
        "text_config.cache_implementation",
        "text_config.max_position_embeddings",
        "text_config.num_image_tokens",
        "text_config.sliding_window_size",
        "text_config.use_bidirectional_attention",
        "vision_config.attention_dropout",
        "vision_config.num_image_tokens",
        "vision_config.num_positions",
        "vision_config.projection_dim",
        "vision_config.projector_hidden_act",
        "vision_config.vocab_size",
    ),
    weights=(
        rule("language_model.model.embed_tokens.weight", "token_embedding.weight"),
        rule("language_model.model.norm.weight", "final_normalization.weight"),
        *under(
            "language_model.model.layers.{}.",
            "transformer_layers.{}.",
            (*BLOCK, *NORMS),
        ),
        *under("vision_tower.", "vit_encoder.image_encoder.", TOWER),
        *layer("multi_modal_projector.linear", "vit_encoder.image_classifier"),
    ),
    renames=(
        ("model.language_model.*", "language_model.model.*"),
        ("model.*", "*"),
        ("vision_tower.vision_model.*", "vision_tower.*"),
    ),
    dropped=("vision_tower.head.*",),
    tied={
        "lm_head.weight": "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight": "language_model.model.embed_tokens.weight",
    },
)
TABLES = (PALI_GEMMA,)
