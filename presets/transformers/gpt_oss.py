"""gpt-oss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...backbones.gpt_oss import GptOssBackbone, keras_layer_types
from ...backbones.layers.masks import FULL, SLIDING
from ..checkpoints.table import (
    REQUIRED,
    Key,
    Table,
    either,
    fixed,
    key,
    layer,
    rule,
    under,
)
from .llama import (
    ATTENTION,
    BIASES,
    BLOCKS,
    CONFIG,
    DROPPED,
    ENDS,
    HEAD_DIM,
    RENAMES,
    TIED,
    parse_rope,
)

# What the model has built in.
YARN = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 4096,
    "truncate": False,
}
ABSENT = {"rope_type": "yarn", "factor": 32.0, **YARN}


def load_rope(theta: float, scaling: Any, parameters: Any) -> tuple[float, float]:
    theta, _, settings = parse_rope(
        theta,
        scaling,
        parameters or ABSENT,
        {"default": (), "yarn": ("factor", "original_max_position_embeddings", "truncate")},
        ("beta_fast", "beta_slow"),
    )
    factor = settings.pop("factor", 1.0)
    for name, value in settings.items():
        if value != YARN[name]:
            raise ValueError(f"{name} is {value}; only {YARN[name]} can be computed")
    return theta, factor


def save_rope(theta: float, factor: float) -> tuple[Any, ...]:
    if factor < 1:
        raise ValueError(f"rope_scaling_factor is {factor}; transformers has only 1 and more")
    return theta, {"rope_type": "yarn", "factor": float(factor), **YARN}


def load_windows(
    types: list[str] | None, size: int | None, layers: int
) -> tuple[list[str] | None, int | None]:
    """A window of `size` keys is of `size` - 1 before the query's in KerasHub."""
    if types is None:
        types = [FULL if i % 2 else SLIDING for i in range(layers)]
    if size is None or SLIDING not in types:
        return None, None
    if size < 2:
        raise ValueError(f"sliding_window is {size}; only 2 and more can be computed")
    return None if types == keras_layer_types(layers) else types, size - 1


def save_windows(
    types: Sequence[str] | None, size: int | None, layers: int
) -> tuple[list[str], int]:
    if not size:
        return [FULL] * layers, 128
    return list(types or keras_layer_types(layers))[:layers], size + 1


def save_head_dim(size: int | None, width: int, count: int) -> tuple[int]:
    size = size or width // count
    if size % 2:
        raise ValueError(f"heads have {size} dimensions; transformers wants an even number")
    return (size,)


GPT_OSS = Table(
    model_types=("gpt_oss",),
    backbone=GptOssBackbone,
    architecture="GptOssForCausalLM",
    config=(
        *CONFIG,
        key("num_attention_heads", "num_query_heads"),
        key("num_key_value_heads", "num_key_value_heads"),
        replace(HEAD_DIM, theirs={"head_dim": 64}, save=save_head_dim),
        key("rms_norm_eps", "layer_norm_epsilon", 1e-5),
        key("attention_dropout", "dropout", 0.0),
        Key(
            {"rope_theta": 150000.0, "rope_scaling": None, "rope_parameters": None},
            ("rope_max_wavelength", "rope_scaling_factor"),
            load_rope,
            save_rope,
        ),
        Key(
            {"layer_types": None, "sliding_window": 128, "num_hidden_layers": REQUIRED},
            ("layer_types", "sliding_window", "num_layers"),
            load_windows,
            save_windows,
        ),
        either(("num_local_experts", "num_experts"), "num_experts"),
        key("num_experts_per_tok", "top_k", 4),
        key("output_router_logits", "output_router_logits", False),
        fixed("attention_bias", True),
        fixed("swiglu_limit", 7.0),
        fixed("swiglu_alpha", 1.702),
        # Our embedding is never tied: a tied one is read twice.
        fixed("tie_word_embeddings", False, True),
    ),
    ignored=(
        "experts_per_token",
        "initial_context_length",
        "max_position_embeddings",
        "router_aux_loss_coef",
    ),
    weights=(
        *ENDS,
        *under(
            *BLOCKS,
            (
                rule("input_layernorm.weight", "input_layernorm.weight"),
                *ATTENTION[1:],
                *BIASES,
                rule("self_attn.o_proj.bias", "self_attention.attention_output.bias"),
                rule("self_attn.sinks", "self_attention.sinks"),
                rule("post_attention_layernorm.weight", "post_attention_layernorm.weight"),
                *layer("mlp.router", "sparse_moe_block.router.router_dense"),
                *(
                    rule(f"mlp.experts.{name}", f"sparse_moe_block.experts.{name}")
                    for name in (
                        "gate_up_proj",
                        "gate_up_proj_bias",
                        "down_proj",
                        "down_proj_bias",
                    )
                ),
            ),
        ),
    ),
    # All that are published have the experts in MXFP4; KerasHub reads them as floats, too.
    quantized=("mxfp4",),
    renames=RENAMES,
    dropped=DROPPED,
    tied=TIED,
)
TABLES = (GPT_OSS,)
