"""Qwen3.5 without and with experts: the text models alone, and with their vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...backbones.qwen3_5 import Qwen3_5Backbone, Qwen3_5MoeBackbone
from ...backbones.qwen3_5.backbone import kinds_of_layers
from ...backbones.qwen3_5.vision import WAVELENGTH, Qwen3_5VisionEncoder
from ..checkpoints.table import EXPERTS as MATRICES
from ..checkpoints.table import (
    HALVES,
    TRANSPOSE,
    Key,
    Operation,
    Rule,
    Table,
    constant,
    either,
    fixed,
    key,
    layer,
    only,
    rule,
    shared,
    under,
    within,
)
from .llama import BLOCKS, DROPPED, ENDS, RENAMES, TIED, parse_rope
from .mixtral import GATED, experts

# The convolution's channels are apart from each other.
APART = Operation(
    save=lambda tensors: [tensor[:, None] for tensor in tensors],
    load=lambda tensors, shapes: [tensor[:, 0] for tensor in tensors],
)
LONGEST = 32768
PART = 0.25
EXPERTS = ("mlp.", "sparse_moe_block.")


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
    only("attn_output_gate", True),
    only("mlp_only_layers", []),
    key("attention_dropout", "dropout", 0.0),
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
)
DENSE = (*CONFIG, key("intermediate_size", "intermediate_dim", 12288))
SPARSE = (
    *CONFIG,
    key("moe_intermediate_size", "moe_intermediate_dim", 512),
    key("shared_expert_intermediate_size", "shared_expert_intermediate_size", 512),
    either(("num_experts", "num_local_experts"), "num_experts"),
    key("num_experts_per_tok", "top_k", 8),
    key("router_aux_loss_coef", "router_aux_loss_coefficient", 0.001),
)
ALONE = (
    key("tie_word_embeddings", "tie_word_embeddings", False),
    constant(vision_encoder=None),
)
IGNORED = ("mamba_ssm_dtype", "mtp_*", "output_router_logits")
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
DENSE_TEXT = (*ENDS, *under(*BLOCKS, (*MIXERS, *under("mlp.", "", GATED))))
MATRICES_OF_EXPERTS = (
    Rule(
        ("experts.[].gate_proj.weight", "experts.[].up_proj.weight"),
        ("experts.gate_and_intermediate",),
        (HALVES, MATRICES),
        count="num_experts",
    ),
    experts("experts.[].down_proj.weight", "experts.output"),
)
SPARSE_TEXT = (
    *ENDS,
    *under(
        *BLOCKS,
        (
            *MIXERS,
            *under(
                *EXPERTS,
                (
                    rule("gate.weight", "router_gate.weight"),
                    *MATRICES_OF_EXPERTS,
                    *under("shared_expert.", "shared_expert.", GATED),
                    rule("shared_expert_gate.weight", "shared_expert_gate.weight"),
                ),
            ),
        ),
    ),
)
# As the published files have them, and transformers in memory.
TOGETHER = under(
    *BLOCKS,
    under(
        *EXPERTS,
        (
            rule("experts.gate_up_proj", "experts.gate_and_intermediate", TRANSPOSE),
            rule("experts.down_proj", "experts.output", TRANSPOSE),
        ),
    ),
)

# The vision tower

VISION_KEYS = {
    "depth": 27,
    "hidden_size": 1152,
    "num_heads": 16,
    "intermediate_size": 4304,
    "in_channels": 3,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
}
IMAGE_TOKEN, VIDEO_TOKEN = 248056, 248057


def load_vision(width: int, without: bool, *values: Any) -> tuple[dict[str, Any] | None]:
    if without:
        return (None,)
    config = dict(zip(VISION_KEYS, values))
    for name in ("patch_size", "temporal_patch_size"):
        sizes = {*config[name]} if isinstance(config[name], list) else {config[name]}
        if len(sizes) > 1:
            raise ValueError(f"vision_config.{name} is {config[name]}, not a square")
        config[name] = sizes.pop()
    if config["out_hidden_size"] != width:
        raise ValueError(
            f"vision_config.out_hidden_size is {config['out_hidden_size']}, not the text's {width}"
        )
    return ({"registered_name": Qwen3_5VisionEncoder.registered_name, "config": config},)


def save_vision(encoder: Mapping[str, Any] | None, width: int) -> tuple[Any, ...]:
    if encoder is None:
        raise ValueError("vision_encoder is None")
    config = encoder["config"]
    return width, False, *(config[name] for name in VISION_KEYS)


VISION = (
    Key(
        {
            "text_config.hidden_size": 4096,
            "language_model_only": False,
            **{f"vision_config.{name}": default for name, default in VISION_KEYS.items()},
        },
        ("vision_encoder", "hidden_dim"),
        load_vision,
        save_vision,
    ),
    only("vision_config.hidden_act", "gelu_pytorch_tanh"),
    only("vision_config.deepstack_visual_indexes", []),
    only("vision_config.rope_parameters.rope_type", "axial", "default"),
    only("vision_config.rope_parameters.rope_theta", WAVELENGTH),
    shared(
        ("tie_word_embeddings", "text_config.tie_word_embeddings"), "tie_word_embeddings", False
    ),
    # The models are told where images stand, but transformers looks for tokens of the text.
    Key(
        {"image_token_id": IMAGE_TOKEN, "video_token_id": VIDEO_TOKEN},
        ("vocabulary_size",),
        lambda *ids: (),
        lambda size: (min(IMAGE_TOKEN, size - 1), min(VIDEO_TOKEN, size)),
    ),
)
BLOCK = (
    *layer("norm1", "norm1"),
    *layer("norm2", "norm2"),
    *layer("attn.qkv", "attn.qkv"),
    *layer("attn.proj", "attn.proj"),
    *layer("mlp.linear_fc1", "mlp.fc1"),
    *layer("mlp.linear_fc2", "mlp.fc2"),
)
TOWER = under(
    "model.visual.",
    "vision_encoder.",
    (
        *layer("patch_embed.proj", "patch_embed.proj"),
        rule("pos_embed.weight", "pos_embed.weight"),
        *under("blocks.{}.", "blocks.{}.", BLOCK),
        *layer("merger.norm", "merger.ln_q"),
        *layer("merger.linear_fc1", "merger.mlp_0"),
        *layer("merger.linear_fc2", "merger.mlp_2"),
    ),
)


def inner(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The text's rules where its model is a part of another one."""
    return tuple(
        replace(
            one,
            theirs=tuple(
                name.replace("model.", "model.language_model.", 1)
                if name.startswith("model.")
                else name
                for name in one.theirs
            ),
        )
        for one in rules
    )


def tables(
    kind: str, backbone: type, name: str, config: Any, text: Any, instead: Any
) -> tuple[Table, Table]:
    """Of the text alone, and with images."""
    alone = Table(
        model_types=(f"{kind}_text",),
        backbone=backbone,
        architecture=f"{name}ForCausalLM",
        config=(*config, *ALONE),
        ignored=IGNORED,
        weights=text,
        instead=instead,
        renames=RENAMES,
        dropped=(*DROPPED, "mtp.*"),
        tied=TIED,
    )
    seeing = Table(
        model_types=(kind,),
        backbone=backbone,
        architecture=f"{name}ForConditionalGeneration",
        config=(
            *within("text_config.", config),
            fixed("text_config.model_type", f"{kind}_text"),
            *VISION,
        ),
        ignored=(
            *(f"text_config.{key}" for key in IGNORED),
            "vision_start_token_id",
            "vision_end_token_id",
        ),
        weights=(*inner(text), *TOWER),
        instead=inner(instead),
        renames=(("language_model.*", "model.language_model.*"), ("visual.*", "model.visual.*")),
        dropped=("mtp.*", "score.*"),
        tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
    )
    return alone, seeing


TABLES = (
    *tables("qwen3_5", Qwen3_5Backbone, "Qwen3_5", DENSE, DENSE_TEXT, ()),
    *tables("qwen3_5_moe", Qwen3_5MoeBackbone, "Qwen3_5Moe", SPARSE, SPARSE_TEXT, TOGETHER),
)
