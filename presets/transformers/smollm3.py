"""SmolLM3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...backbones.smollm3 import SmolLM3Backbone, stored_frequencies
from ..checkpoints.table import (
    REQUIRED,
    Key,
    Operation,
    Rule,
    Table,
    Tensors,
    constant,
    fixed,
    heads,
    key,
    rule,
    under,
)
from .llama import BLOCKS, CONFIG, DROPPED, ENDS, EVEN_HEADS, RENAMES, TIED, parse_rope

FULL = "full_attention"
SAME = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def load_rope(theta: float, scaling: Any, parameters: Any) -> tuple[float]:
    return parse_rope(theta, scaling, parameters, {"default": ()})[:1]


def load_layers(
    turned: Sequence[int] | None, interval: int, types: list[str] | None, count: int, *window: Any
) -> tuple[list[bool], list[str]]:
    """Which layers have positions; none may have a window."""
    if turned is None:
        turned = [(i + 1) % interval for i in range(count)]
    windows = all(window) and not all(turned) if types is None else {*types} != {FULL}
    if windows:
        raise ValueError("some layers have a sliding_window; SmolLM3Backbone has none")
    return [bool(one) for one in turned], [FULL] * count


def save_layers(turned: Sequence[bool], _: Any, count: int) -> tuple[Any, ...]:
    every = [int(one) for one in (*turned, *[True] * count)][:count]
    return every, 4, [FULL] * count


def unstored(computed: torch.Tensor) -> Operation:
    """For rotary frequencies, which transformers does not store since it can compute them."""

    def save(tensors: Tensors) -> list[torch.Tensor]:
        if not tensors[0].is_meta and not torch.allclose(tensors[0].float().cpu(), computed, 1e-2):
            raise ValueError("the rotary frequencies are not those of rope_theta")
        return []

    return Operation(save, lambda tensors, shapes: [computed])


def frequencies(arguments: Mapping[str, Any]) -> Operation:
    head_dim = arguments["hidden_dim"] // arguments["num_attention_heads"]
    theta, part = arguments["rope_theta"], arguments["partial_rotary_factor"]
    return unstored(stored_frequencies(head_dim, theta, part))


SMOLLM3 = Table(
    model_types=("smollm3",),
    backbone=SmolLM3Backbone,
    architecture="SmolLM3ForCausalLM",
    config=(
        *CONFIG,
        heads("num_attention_heads", "num_attention_heads", "hidden_dim"),
        Key(
            {"num_key_value_heads": 4, "num_attention_heads": REQUIRED},
            ("num_key_value_heads",),
            lambda count, queries: (count or queries,),
            lambda count: (count,),
        ),
        EVEN_HEADS,
        key("rms_norm_eps", "layer_norm_epsilon", 1e-6),
        key("attention_dropout", "attention_dropout", 0.0),
        key("mlp_bias", "mlp_bias", False),
        key("max_position_embeddings", "max_position_embeddings", 32768),
        Key(
            {"rope_theta": 2e6, "rope_scaling": None, "rope_parameters": None},
            ("rope_theta",),
            load_rope,
            lambda theta: (theta,),
        ),
        Key(
            {
                "no_rope_layers": None,
                "no_rope_layer_interval": 4,
                "layer_types": None,
                "num_hidden_layers": REQUIRED,
                "use_sliding_window": False,
                "sliding_window": None,
            },
            ("rope_layer_enabled_list", "layer_types", "num_layers"),
            load_layers,
            save_layers,
        ),
        # With it transformers has a bias in all projections, KerasHub in all but the last.
        fixed("attention_bias", False),
        constant(attention_bias=False, partial_rotary_factor=1.0),
        fixed("tie_word_embeddings", True),
    ),
    weights=(
        *(one for one in ENDS if "reverse" not in one.ours[0]),
        *under(
            *BLOCKS,
            (
                *(rule(f"{name}.weight", f"{name}.weight") for name in SAME),
                *(rule(f"{name}.bias", f"{name}.bias", mlp_bias=True) for name in SAME[-3:]),
                Rule((), ("self_attn.rotary_emb.inv_freq",), (frequencies,)),
            ),
        ),
    ),
    renames=RENAMES,
    dropped=DROPPED,
    tied=TIED,
    extra={"pad_token_id": None},  # there it is 128004 by default, and must be in the vocabulary
)
TABLES = (SMOLLM3,)
