"""Moonshine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...backbones.moonshine import MoonshineBackbone, padded_head_dim, stored_frequencies
from ..checkpoints.table import (
    Key,
    Operation,
    Rule,
    Table,
    constant,
    fixed,
    key,
    layer,
    rule,
    under,
)
from .llama import parse_rope
from .smollm3 import unstored


def check_heads(encoder: int, decoder: int) -> tuple[int, int]:
    # transformers computes the decoder with the encoder's number.
    if encoder != decoder:
        raise ValueError(f"{encoder} heads in the encoder and {decoder} in the decoder differ")
    return encoder, decoder


def check_groups(encoder: int | None, decoder: int | None, count: int) -> tuple[()]:
    if {encoder, decoder} - {None, count}:
        raise ValueError(f"keys and values have {encoder} and {decoder} heads, not {count}")
    return ()


def load_head_dim(size: int | None, width: int, count: int) -> tuple[int | None]:
    if size in (None, width // count):
        return (None,)
    if size is None or size < width // count:
        raise ValueError(f"head_dim is {size}, less than {width // count}")
    return (size,)


def load_rope(
    theta: float, factor: float, scaling: Any, parameters: Any, size: Any, width: int, count: int
) -> tuple[float, float]:
    if isinstance(parameters, Mapping):
        factor = parameters.get("partial_rotary_factor", factor)
        parameters = {**parameters, "partial_rotary_factor": None}
    theta, _, _ = parse_rope(theta, scaling, parameters, {"default": ()})
    check_rotary(size or width // count, factor)
    return theta, factor


def save_rope(
    theta: float, factor: float, multiple: int | None, width: int, count: int
) -> tuple[float, float]:
    check_rotary(padded_head_dim(width, count, multiple), factor)
    return theta, factor


def check_rotary(head_dim: int, factor: float) -> None:
    dim = int(head_dim * factor)
    if dim % 2:
        raise ValueError(f"partial_rotary_factor {factor} gives {dim} dimensions, an odd number")


def load_widths(inner: int, width: int) -> tuple[int, ...]:
    if inner % width:
        raise ValueError(f"intermediate_size {inner} is no multiple of hidden_size {width}")
    return inner, inner // width, width, width


def frequencies(arguments: Mapping[str, Any]) -> Operation:
    head_dim = padded_head_dim(
        arguments["hidden_dim"],
        arguments["encoder_num_heads"],
        arguments["pad_head_dim_to_multiple_of"],
    )
    theta, part = arguments["rope_theta"], arguments["partial_rotary_factor"]
    return unstored(stored_frequencies(head_dim, theta, part))


def attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    names = {"q": "query", "k": "key", "v": "value", "o": "attention_output"}
    return tuple(
        rule(f"{theirs}.{letter}_proj.weight", f"{ours}.{name}.weight")
        for letter, name in names.items()
    )


WIDTH = {"head_dim": None, "hidden_size": 288, "decoder_num_attention_heads": 8}
HEADS = ("pad_head_dim_to_multiple_of", "hidden_dim", "decoder_num_heads")
MOONSHINE = Table(
    model_types=("moonshine",),
    backbone=MoonshineBackbone,
    architecture="MoonshineForConditionalGeneration",
    config=(
        key("vocab_size", "vocabulary_size", 32768),
        key("encoder_num_hidden_layers", "encoder_num_layers", 6),
        key("decoder_num_hidden_layers", "decoder_num_layers", 6),
        Key(
            {"intermediate_size": 1152, "hidden_size": 288},
            ("intermediate_dim", "feedforward_expansion_factor", "hidden_dim", "filter_dim"),
            load_widths,
            lambda inner, factor, width, filters: (factor * width, width),
        ),
        Key(
            {"encoder_num_attention_heads": 8, "decoder_num_attention_heads": 8},
            ("encoder_num_heads", "decoder_num_heads"),
            check_heads,
            check_heads,
        ),
        Key(
            {
                "encoder_num_key_value_heads": None,
                "decoder_num_key_value_heads": None,
                "decoder_num_attention_heads": 8,
            },
            (),
            check_groups,
            tuple,
        ),
        Key(
            WIDTH,
            HEADS,
            load_head_dim,
            lambda multiple, width, count: (padded_head_dim(width, count, multiple),),
        ),
        Key(
            {
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.9,
                "rope_scaling": None,
                "rope_parameters": None,
                **WIDTH,
            },
            ("rope_theta", "partial_rotary_factor", *HEADS),
            load_rope,
            save_rope,
        ),
        key("max_position_embeddings", "max_position_embeddings", 512),
        key("initializer_range", "initializer_range", 0.02),
        key("attention_dropout", "attention_dropout", 0.0),
        Key({}, ("dropout",), lambda: (0.0,), lambda rate: ()),  # there is none there
        fixed("encoder_hidden_act", "gelu"),
        fixed("decoder_hidden_act", "silu", "swish"),
        # With it transformers has a bias in all projections but one, KerasHub in all.
        fixed("attention_bias", False),
        constant(
            attention_bias=False,
            encoder_use_swiglu_activation=False,
            decoder_use_swiglu_activation=True,
        ),
    ),
    # Zeros that fill up the heads change nothing there.
    ignored=("pad_head_dim_to_multiple_of", "tie_word_embeddings"),
    weights=under(
        "model.",
        "",
        (
            rule("encoder.conv1.weight", "conv1.weight"),
            *layer("encoder.conv2", "conv2"),
            *layer("encoder.conv3", "conv3"),
            *layer("encoder.groupnorm", "group_norm"),
            *(
                Rule((), (f"{side}_rotary_embedding.inv_freq",), (frequencies,))
                for side in ("encoder", "decoder")
            ),
            *under(
                "encoder.layers.{}.",
                "encoder_blocks.{}.",
                (
                    rule("input_layernorm.weight", "self_attention_layer_norm.weight"),
                    *attention("self_attn", "self_attention_layer"),
                    rule("post_attention_layernorm.weight", "feedforward_layer_norm.weight"),
                    *layer("mlp.fc1", "feedforward.dense_1"),
                    *layer("mlp.fc2", "feedforward.dense_2"),
                ),
            ),
            rule("encoder.layer_norm.weight", "encoder_final_layer_norm.weight"),
            rule("decoder.embed_tokens.weight", "token_embedding.weight"),
            *under(
                "decoder.layers.{}.",
                "decoder_blocks.{}.",
                (
                    rule("input_layernorm.weight", "norm1.weight"),
                    *attention("self_attn", "self_attention"),
                    rule("post_attention_layernorm.weight", "norm2.weight"),
                    *attention("encoder_attn", "cross_attention"),
                    rule("final_layernorm.weight", "norm3.weight"),
                    *layer("mlp.fc1", "ff.dense_1"),
                    *layer("mlp.fc2", "ff.dense_2"),
                ),
            ),
            rule("decoder.norm.weight", "decoder_post_norm.weight"),
        ),
    ),
    renames=tuple((name, f"model.{name}") for name in ("encoder.*", "decoder.*")),
    tied={"proj_out.weight": "model.decoder.embed_tokens.weight"},
)
TABLES = (MOONSHINE,)
