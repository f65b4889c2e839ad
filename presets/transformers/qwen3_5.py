"""Qwen3.5's text models, without and with experts."""

from __future__ import annotations

from typing import Any

from ...backbones.qwen3_5 import Qwen3_5Backbone, Qwen3_5MoeBackbone
from ...backbones.qwen3_5.backbone import kinds_of_layers
from .llama import BLOCKS, DROPPED, ENDS, RENAMES, TIED, parse_rope
from .mixtral import GATED, experts
from .table import EXPERTS as MATRICES
from .table import (
    HALVES,
    Key,
    Operation,
    Rule,
    Table,
    constant,
    either,
    fixed,
    key,
    only,
    rule,
    under,
)

# The convolution's channels are apart from each other.
APART = Operation(
    save=lambda tensors: [tensor[:, None] for tensor in tensors],
    load=lambda tensors, shapes: [tensor[:, 0] for tensor in tensors],
)
LONGEST = 32768
PART = 0.25


def load_rope(
    theta: float, scaling: Any, parameters: Any, part: float | None
) -> tuple[float, float, float, list[int] | None]:
    given = dict(scaling or parameters or {})
    part = given.pop("partial_rotary_factor", part)
    sections = given.pop("mrope_section", None)
    given.pop("mrope_interleaved", None)
    types = {"default": (), "linear": ("factor",)}
    theta, _, settings = parse_rope(theta, None, given, types)
    return theta, settings.get("factor", 1.0), PART if part is None else part, sections


def save_rope(
    theta: float, factor: float, part: float, sections: list[int] | None
) -> tuple[None, None, dict[str, Any]]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if factor != 1:
        rope |= {"rope_type": "linear", "factor": float(factor)}
    if sections is not None:
        rope |= {"mrope_section": sections, "mrope_interleaved": True}
    return None, None, rope | {"partial_rotary_factor": part}


def save_window(size: int | None) -> tuple[int]:
    if size is not None and size < LONGEST:
        raise ValueError(f"sliding_window_size is {size}; transformers has no windows here")
    return (LONGEST,)


def load_types(types: list[str] | None, interval: int | None, layers: int) -> tuple[list[str]]:
    kinds = ("linear_attention", "full_attention")
    every = interval or 4
    return (types or [kinds[(i + 1) % every == 0] for i in range(layers)],)


CONFIG = (
    key("vocab_size", "vocabulary_size", 248320),
    key("hidden_size", "hidden_dim", 4096),
    key("num_hidden_layers", "num_layers", 32),
    key("num_attention_heads", "num_query_heads", 16),
    key("num_key_value_heads", "num_key_value_heads", 4),
    key("head_dim", "head_dim", 256),
    fixed("hidden_act", "silu", "swish"),
    only("attention_bias", False),
    key("rms_norm_eps", "layer_norm_epsilon", 1e-6),
    key("attention_dropout", "dropout", 0.0),
    key("tie_word_embeddings", "tie_word_embeddings", False),
    Key(
        {"layer_types": None, "full_attention_interval": None, "num_hidden_layers": 32},
        ("layer_types", "num_layers"),
        load_types,
        lambda types, layers: (kinds_of_layers(layers, types),),
    ),
    Key(
        {
            "rope_theta": 1e4,
            "rope_scaling": None,
            "rope_parameters": None,
            "partial_rotary_factor": None,
        },
        (
            "rope_max_wavelength",
            "rope_scaling_factor",
            "partial_rotary_factor",
            "mrope_section",
        ),
        load_rope,
        save_rope,
    ),
    Key(
        {"max_position_embeddings": LONGEST},
        ("sliding_window_size",),
        lambda length: (None,),
        save_window,
    ),
    key("linear_conv_kernel_dim", "linear_conv_kernel_dim", 4),
    key("linear_key_head_dim", "linear_key_head_dim", 128),
    key("linear_value_head_dim", "linear_value_head_dim", 128),
    key("linear_num_key_heads", "linear_num_key_heads", 16),
    key("linear_num_value_heads", "linear_num_value_heads", 32),
    constant(vision_encoder=None),
)
MIXERS = (
    *(
        rule(f"{name}.weight", f"{name}.weight")
        for name in (
            "input_layernorm",
            "post_attention_layernorm",
            "linear_attn.in_proj_qkv",
            "linear_attn.in_proj_z",
            "linear_attn.in_proj_b",
            "linear_attn.in_proj_a",
            "linear_attn.norm",
            "linear_attn.out_proj",
        )
    ),
    rule("linear_attn.A_log", "linear_attn.A_log"),
    rule("linear_attn.dt_bias", "linear_attn.dt_bias"),
    rule("linear_attn.conv1d.weight", "linear_attn.conv1d_kernel", APART),
    rule("self_attn.q_proj.weight", "self_attention.query.weight"),
    rule("self_attn.k_proj.weight", "self_attention.key.weight"),
    rule("self_attn.v_proj.weight", "self_attention.value.weight"),
    rule("self_attn.o_proj.weight", "self_attention.attention_output.weight"),
    rule("self_attn.q_norm.weight", "self_attention.query_norm.weight"),
    rule("self_attn.k_norm.weight", "self_attention.key_norm.weight"),
)
QWEN3_5 = Table(
    model_types=("qwen3_5_text",),
    backbone=Qwen3_5Backbone,
    architecture="Qwen3_5ForCausalLM",
    config=(*CONFIG, key("intermediate_size", "intermediate_dim", 12288)),
    weights=(*ENDS, *under(*BLOCKS, (*MIXERS, *under("mlp.", "", GATED)))),
    renames=RENAMES,
    dropped=(*DROPPED, "mtp.*"),
    tied=TIED,
)
QWEN3_5_MOE = Table(
    model_types=("qwen3_5_moe_text",),
    backbone=Qwen3_5MoeBackbone,
    architecture="Qwen3_5MoeForCausalLM",
    config=(
        *CONFIG,
        key("moe_intermediate_size", "moe_intermediate_dim", 512),
        key("shared_expert_intermediate_size", "shared_expert_intermediate_size", 512),
        either(("num_experts", "num_local_experts"), "num_experts"),
        key("num_experts_per_tok", "top_k", 8),
        key("router_aux_loss_coef", "router_aux_loss_coefficient", 0.001),
    ),
    ignored=("output_router_logits",),
    weights=(
        *ENDS,
        *under(
            *BLOCKS,
            (
                *MIXERS,
                *under(
                    "mlp.",
                    "sparse_moe_block.",
                    (
                        rule("gate.weight", "router_gate.weight"),
                        Rule(
                            ("experts.[].gate_proj.weight", "experts.[].up_proj.weight"),
                            ("experts.gate_and_intermediate",),
                            (HALVES, MATRICES),
                            count="num_experts",
                        ),
                        experts("experts.[].down_proj.weight", "experts.output"),
                        *under("shared_expert.", "shared_expert.", GATED),
                        rule("shared_expert_gate.weight", "shared_expert_gate.weight"),
                    ),
                ),
            ),
        ),
    ),
    renames=RENAMES,
    dropped=(*DROPPED, "mtp.*"),
    tied=TIED,
)
TABLES = (QWEN3_5, QWEN3_5_MOE)
