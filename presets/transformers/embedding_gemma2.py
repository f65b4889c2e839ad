"""EmbeddingGemma 2, of text, and with images and sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...backbones.embedding_gemma2 import EmbeddingGemma2Backbone
from ...backbones.layers.masks import FULL
from ..checkpoints.table import Key, Rule, Table, constant, fixed, key, only, rule, under, within
from .gemma4 import (
    AUDIO,
    LAYER_TYPES,
    PERIOD,
    PLACES,
    ROPE,
    TEXT,
    VISION,
    check_pairs,
    load_audio,
    load_global,
    load_rope,
    load_vision,
    save_audio,
    save_vision,
    types_of,
)

LAYERS = 24
HEADS, HEAD_DIM, GLOBAL_HEADS, GLOBAL_HEAD_DIM = 2, 256, 1, 512
TYPES: dict[str, Any] = {
    "layer_types": None,
    "sliding_window_pattern": None,
    "num_hidden_layers": LAYERS,
}


def load_heads(
    head_dim: int,
    heads: int,
    global_dim: int,
    global_heads: int,
    of_layers: Mapping[str, Mapping[str, int]] | None,
    types: Sequence[str] | None,
    period: int | None,
    count: int,
    rope: Mapping[str, Any] | None,
) -> tuple[int, int]:
    """Width and number of the heads of global layers, which newer files tell for each layer."""
    if of_layers is not None:
        global_dim, global_heads = head_dim, heads
    types = types_of(types, count, period)
    dim, many = load_global(
        head_dim, heads, global_dim, global_heads, True, of_layers, types, count, rope or {}
    )
    return dim, many or heads


def save_heads(
    global_dim: int | None,
    global_heads: int | None,
    head_dim: int,
    heads: int,
    part: float,
    types: list[str],
    count: int,
) -> tuple[Any, ...]:
    dim, many = global_dim or head_dim, global_heads or heads
    check_pairs(dim, part)
    others = {"head_dim": dim, "num_key_value_heads": many}
    of_layers = {str(i): others for i, kind in enumerate(types[:count]) if kind == FULL}
    return head_dim, heads, dim, many, of_layers


def save_width(width: int) -> tuple[int]:
    if not width:
        raise ValueError("hidden_size_per_layer_input is 0")
    return (width,)


CONFIG = (
    key("vocab_size", "vocabulary_size", 262144),
    key("num_hidden_layers", "num_layers", LAYERS),
    key("num_attention_heads", "num_query_heads", 4),
    key("num_key_value_heads", "num_key_value_heads", HEADS),
    key("hidden_size", "hidden_dim", 512),
    key("intermediate_size", "intermediate_dim", 2048),
    key("head_dim", "head_dim", HEAD_DIM),
    key("attention_dropout", "dropout", 0.0),
    key("rms_norm_eps", "layer_norm_epsilon", 1e-6),
    key("sliding_window", "sliding_window_size", 512),
    key("embedding_dim", "embedding_dim", 768),
    Key(
        {"hidden_size_per_layer_input": 512},
        ("hidden_size_per_layer_input",),
        lambda width: (width,),
        save_width,
    ),
    fixed("hidden_activation", "gelu_pytorch_tanh"),
    only("attention_bias", False),
    only("pad_token_id", 0, None),
    replace(
        LAYER_TYPES,
        theirs=TYPES,
        load=lambda types, period, count: (types_of(types, count, period), PERIOD, count, True),
    ),
    Key(
        {
            "head_dim": HEAD_DIM,
            "num_key_value_heads": HEADS,
            "global_head_dim": GLOBAL_HEAD_DIM,
            "num_global_key_value_heads": GLOBAL_HEADS,
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
        save_heads,
    ),
    replace(ROPE, load=lambda parameters: load_rope(parameters or {})),
)
TOWERS = (
    Key(
        {"vision_config": None, "text_config.hidden_size": 512},
        ("vision_encoder", "image_size", "hidden_dim"),
        load_vision,
        save_vision,
    ),
    Key(
        {"audio_config": None, "text_config.hidden_size": 512},
        ("audio_encoder", "hidden_dim"),
        lambda given, hidden: load_audio(given, hidden)[:1],
        lambda encoder, hidden: save_audio(encoder, None, hidden),
    ),
    PLACES,
)


def moved(one: Rule) -> Rule:
    """What the states say to layers stands in parts of its own."""
    name = one.theirs[0]
    if name.startswith("per_layer_"):
        name = f"ple.{name}"
    elif "per_layer_" in name:
        name = name.replace("layers.{}.", "layers.{}.ple_block.")
    return replace(one, theirs=(name,))


WEIGHTS = (
    *(moved(one) for one in TEXT if "per_layer_token" not in one.ours[0]),
    rule("embedding_projection.weight", "embedding_projection.weight"),
)
EMBEDDING_GEMMA2_TEXT = Table(
    model_types=("embedding_gemma2_text",),
    backbone=EmbeddingGemma2Backbone,
    architecture="EmbeddingGemma2TextModel",
    config=(
        *CONFIG,
        constant(vision_encoder=None, audio_encoder=None),
        Key({}, ("image_size",), lambda: (None,), lambda size: ()),
    ),
    ignored=("max_position_embeddings",),
    weights=WEIGHTS,
)
EMBEDDING_GEMMA2 = Table(
    model_types=("embedding_gemma2",),
    backbone=EmbeddingGemma2Backbone,
    architecture="EmbeddingGemma2Model",
    config=(
        *within("text_config.", CONFIG),
        fixed("text_config.model_type", "embedding_gemma2_text"),
        *TOWERS,
    ),
    ignored=(
        "text_config.max_position_embeddings",
        "boi_token_id",
        "eoi_token_id",
        "boa_token_id",
        "eoa_token_index",
        "tie_word_embeddings",
    ),
    weights=(*under("language_model.", "", WEIGHTS), *VISION, *AUDIO),
)
TABLES = (EMBEDDING_GEMMA2_TEXT, EMBEDDING_GEMMA2)
