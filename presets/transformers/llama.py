"""Llama, and what the tables of the decoders after it share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...backbones.llama import LlamaBackbone
from ...backbones.llama3 import Llama3Backbone
from ..checkpoints.table import (
    REQUIRED,
    TRANSPOSE,
    Key,
    Table,
    fixed,
    heads,
    key,
    only,
    rule,
    under,
)

LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def parse_rope(
    theta: float,
    scaling: Any,
    parameters: Any,
    types: Mapping[str, Sequence[str]],
    optional: Sequence[str] = (),
) -> tuple[float, str, dict[str, Any]]:
    """The longest wavelength, the type and its settings, as any version of transformers has them.

    Args:
        theta, scaling: `rope_theta` and `rope_scaling`, of older versions.
        parameters: `rope_parameters`, which holds both since transformers 5.
        types: those that can be computed → settings that they must have.
        optional: settings that they may have.
    """
    given = scaling or parameters or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"rope_scaling or rope_parameters is {given!r}, not an object")
    settings = {name: value for name, value in given.items() if value is not None}
    theta = settings.pop("rope_theta", theta)
    kind = settings.pop("type", "default")
    kind = settings.pop("rope_type", kind)
    if kind not in types:
        known = " or ".join(map(repr, types))
        raise ValueError(f"rope_type is {kind!r}; only {known} can be computed")
    if settings.pop("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("partial_rotary_factor is not 1; only whole heads can be turned")
    missing = [name for name in types[kind] if name not in settings]
    unknown = [name for name in settings if name not in (*types[kind], *optional)]
    if missing or unknown:
        raise ValueError(
            f"rope_type {kind!r}"
            + (f" lacks {', '.join(missing)}" if missing else "")
            + (f" has {', '.join(unknown)}, which is not known here" if unknown else "")
        )
    return theta, kind, settings


# The older keys are written, which all versions of transformers read, and KerasHub, too.


def load_stretching(theta: float, scaling: Any, length: Any, parameters: Any) -> tuple[Any, ...]:
    theta, _, settings = parse_rope(theta, scaling, parameters, {"default": (), "llama3": LLAMA3})
    return theta, *(settings.get(name) for name in LLAMA3)


def save_stretching(theta: float, *factors: Any) -> tuple[Any, ...]:
    # The model does not know its greatest length; these are Llama 3's and 3.1's.
    if factors[0] is None:
        return theta, None, 8192
    return theta, {"rope_type": "llama3", **dict(zip(LLAMA3, factors))}, 131072


def load_linear(theta: float, scaling: Any, parameters: Any) -> tuple[float, float]:
    types = {"default": (), "linear": ("factor",)}
    theta, _, settings = parse_rope(theta, scaling, parameters, types)
    return theta, settings.get("factor", 1.0)


def save_linear(theta: float, factor: float) -> tuple[Any, ...]:
    return theta, None if factor == 1 else {"rope_type": "linear", "factor": float(factor)}


LINEAR_ROPE = Key(
    {"rope_theta": 1e4, "rope_scaling": None, "rope_parameters": None},
    ("rope_max_wavelength", "rope_scaling_factor"),
    load_linear,
    save_linear,
)


def check_head_dim(head_dim: int | None, width: int, count: int) -> tuple[()]:
    if head_dim not in (None, width // count):
        raise ValueError(f"head_dim is {head_dim}; only {width // count}, the width by the heads")
    return ()


EVEN_HEADS = Key(
    {"head_dim": None, "hidden_size": REQUIRED, "num_attention_heads": REQUIRED},
    (),
    check_head_dim,
    tuple,
)
HEAD_DIM = Key(
    {"head_dim": None},
    ("head_dim", "hidden_dim", "num_query_heads"),
    lambda size: (size,),
    lambda size, width, count: (size or width // count,),
)
KEY_VALUE_HEADS = Key(
    {"num_key_value_heads": None, "num_attention_heads": REQUIRED},
    ("num_key_value_heads",),
    lambda count, queries: (count or queries,),
    lambda count: (count,),
)
CONFIG = (
    key("vocab_size", "vocabulary_size"),
    key("num_hidden_layers", "num_layers"),
    key("hidden_size", "hidden_dim"),
    key("intermediate_size", "intermediate_dim"),
    fixed("hidden_act", "silu", "swish"),
    only("partial_rotary_factor", 1.0, None),
)
ATTENTION = (
    rule("input_layernorm.weight", "self_attention_layernorm.weight"),
    rule("self_attn.q_proj.weight", "self_attention.query.weight"),
    rule("self_attn.k_proj.weight", "self_attention.key.weight"),
    rule("self_attn.v_proj.weight", "self_attention.value.weight"),
    rule("self_attn.o_proj.weight", "self_attention.attention_output.weight"),
)
BIASES = (
    rule("self_attn.q_proj.bias", "self_attention.query.bias"),
    rule("self_attn.k_proj.bias", "self_attention.key.bias"),
    rule("self_attn.v_proj.bias", "self_attention.value.bias"),
)
FEED_FORWARD = (
    rule("post_attention_layernorm.weight", "feedforward_layernorm.weight"),
    rule("mlp.gate_proj.weight", "feedforward_gate_dense.weight"),
    rule("mlp.up_proj.weight", "feedforward_intermediate_dense.weight"),
    rule("mlp.down_proj.weight", "feedforward_output_dense.weight"),
)
ENDS = (
    rule("model.embed_tokens.weight", "token_embedding.weight"),
    rule("lm_head.weight", "token_embedding.reverse_embeddings", TRANSPOSE),
    rule("model.norm.weight", "sequence_output_layernorm.weight"),
)
BLOCKS = ("model.layers.{}.", "transformer_layers.{}.")
RENAMES = tuple((name, f"model.{name}") for name in ("embed_tokens.*", "layers.*", "norm.*"))
DROPPED = ("model.layers.{}.self_attn.rotary_emb.inv_freq", "score.*", "qa_outputs.*")
TIED = {"lm_head.weight": "model.embed_tokens.weight"}

LLAMA = Table(
    model_types=("llama",),
    backbone=Llama3Backbone,
    also=(LlamaBackbone,),
    architecture="LlamaForCausalLM",
    config=(
        *CONFIG,
        heads("num_attention_heads", "num_query_heads", "hidden_dim"),
        KEY_VALUE_HEADS,
        EVEN_HEADS,
        key("rms_norm_eps", "layer_norm_epsilon", 1e-6),
        key("attention_dropout", "dropout", 0.0),
        key("tie_word_embeddings", "tie_word_embeddings", False),
        Key(
            {
                "rope_theta": 1e4,
                "rope_scaling": None,
                "max_position_embeddings": None,
                "rope_parameters": None,
            },
            (
                "rope_max_wavelength",
                "rope_frequency_adjustment_factor",
                "rope_low_freq_factor",
                "rope_high_freq_factor",
                "rope_pretraining_sequence_length",
            ),
            load_stretching,
            save_stretching,
        ),
        only("attention_bias", False),
        only("mlp_bias", False),
    ),
    ignored=("pretraining_tp",),
    weights=(*ENDS, *under(*BLOCKS, (*ATTENTION, *FEED_FORWARD))),
    renames=RENAMES,
    dropped=DROPPED,
    tied=TIED,
)
TABLES = (LLAMA,)
