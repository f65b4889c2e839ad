"""Phi-3."""

from __future__ import annotations

import math
from typing import Any

from ...backbones.phi3 import Phi3Backbone
from ..checkpoints.table import FUSE, Key, Table, fixed, key, rule, shared, under
from .llama import BLOCKS, CONFIG, DROPPED, ENDS, EVEN_HEADS, KEY_VALUE_HEADS, RENAMES, TIED
from .llama import parse_rope as parse

FACTORS = ("short_factor", "long_factor")
OPTIONAL = ("factor", "attention_factor", "original_max_position_embeddings")


def load_rope(
    theta: float, scaling: Any, length: int, pretraining: int, parameters: Any
) -> tuple[Any, ...]:
    types = {"default": (), "longrope": FACTORS, "su": FACTORS}
    theta, kind, settings = parse(theta, scaling, parameters, types, OPTIONAL)
    if kind == "default":
        return theta, length, pretraining, None, None, None
    growth = max(1.0, length / pretraining)
    built_in = {
        "factor": length / pretraining,
        "attention_factor": math.sqrt(1 + math.log(growth) / math.log(pretraining)),
        "original_max_position_embeddings": pretraining,
    }
    for name, value in built_in.items():
        if not math.isclose(settings.get(name, value), value, rel_tol=1e-6):
            raise ValueError(f"{name} is {settings[name]}; only {value} can be computed")
    return theta, length, pretraining, "su", *(settings[name] for name in FACTORS)


def save_rope(
    theta: float, length: int, pretraining: int, kind: str | None, short: Any, long: Any
) -> tuple[Any, ...]:
    # Older versions of transformers want these three settings and no other.
    scaling = {"type": "longrope", "short_factor": short, "long_factor": long}
    return theta, scaling if kind else None, length, pretraining


def check_window(window: int | None, length: int) -> tuple[()]:
    if window is not None and window < length:
        raise ValueError(
            f"sliding_window is {window}, less than max_position_embeddings {length}, but "
            "Phi3Backbone, as KerasHub's, has no window. For inputs that are no longer than the "
            "window it makes no difference: with null for it in config.json the model is read"
        )
    return ()


def fused(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.weight" for name in names)


BLOCK = (
    rule("input_layernorm.weight", "pre_attention_layernorm.weight"),
    rule(
        "self_attn.qkv_proj.weight",
        fused("attention.query", "attention.key", "attention.value"),
        FUSE,
    ),
    rule("self_attn.o_proj.weight", "attention.attention_output.weight"),
    rule("post_attention_layernorm.weight", "post_attention_layernorm.weight"),
    rule(
        "mlp.gate_up_proj.weight",
        fused("feedforward_gate_dense", "feedforward_intermediate_dense"),
        FUSE,
    ),
    rule("mlp.down_proj.weight", "feedforward_output_dense.weight"),
)
PHI3 = Table(
    model_types=("phi3",),
    backbone=Phi3Backbone,
    architecture="Phi3ForCausalLM",
    config=(
        *CONFIG,
        key("num_attention_heads", "num_query_heads"),
        KEY_VALUE_HEADS,
        EVEN_HEADS,
        key("rms_norm_eps", "layer_norm_epsilon", 1e-5),
        shared(("attention_dropout", "resid_pdrop"), "dropout", 0.0),
        Key(
            {
                "rope_theta": 1e4,
                "rope_scaling": None,
                "max_position_embeddings": 4096,
                "original_max_position_embeddings": 4096,
                "rope_parameters": None,
            },
            (
                "rope_max_wavelength",
                "max_sequence_length",
                "pretraining_sequence_length",
                "rope_scaling_type",
                "rope_scaling_short_factor",
                "rope_scaling_long_factor",
            ),
            load_rope,
            save_rope,
        ),
        Key({"sliding_window": None, "max_position_embeddings": 4096}, (), check_window, tuple),
        # Our embedding is never tied: a tied one is read twice.
        fixed("tie_word_embeddings", False, True),
    ),
    ignored=("embd_pdrop",),
    weights=(*ENDS, *under(*BLOCKS, BLOCK)),
    renames=RENAMES,
    dropped=DROPPED,
    tied=TIED,
    extra={"pad_token_id": None},  # there it is 32000 by default, and must be in the vocabulary
)
TABLES = (PHI3,)
