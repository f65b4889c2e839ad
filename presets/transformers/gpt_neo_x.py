"""GPT-NeoX."""

from __future__ import annotations

import warnings
from typing import Any

from ...backbones.gpt_neo_x import GPTNeoXBackbone
from ..checkpoints.table import (
    Key,
    Table,
    demanded,
    fixed,
    heads,
    key,
    layer,
    only,
    rule,
    shared,
    under,
)
from .llama import parse_rope


def load_rope(part: float, theta: float, scaling: Any, parameters: Any) -> tuple[float, float]:
    settings = dict(scaling or parameters or {})
    part = settings.pop("partial_rotary_factor", part)
    theta, _, _ = parse_rope(theta, settings, None, {"default": ()})
    return part, theta


def check_head(tied: bool) -> tuple[()]:
    if not tied:
        warnings.warn(
            "tie_word_embeddings is False, but a head beside the embedding is no part of "
            "GPTNeoXBackbone, as of KerasHub's; it is dropped.",
            stacklevel=2,
        )
    return ()


BLOCK = (
    *layer("input_layernorm", "self_attention_layer_norm"),
    # Here as there each head has its query, key and value side by side.
    *layer("attention.query_key_value", "self_attention.query_key_value"),
    *layer("attention.dense", "self_attention.attention_output"),
    *layer("post_attention_layernorm", "feedforward_layer_norm"),
    *layer("mlp.dense_h_to_4h", "feedforward_intermediate_dense"),
    *layer("mlp.dense_4h_to_h", "feedforward_output_dense"),
)
GPT_NEO_X = Table(
    model_types=("gpt_neox",),
    backbone=GPTNeoXBackbone,
    architecture="GPTNeoXForCausalLM",
    config=(
        key("vocab_size", "vocabulary_size"),
        key("num_hidden_layers", "num_layers"),
        heads("num_attention_heads", "num_heads", "hidden_dim"),
        key("hidden_size", "hidden_dim"),
        key("intermediate_size", "intermediate_dim"),
        shared(("hidden_dropout", "attention_dropout"), "dropout", 0.0),
        key("max_position_embeddings", "max_sequence_length", 2048),
        key("layer_norm_eps", "layer_norm_epsilon", 1e-5),
        Key(
            {
                "rotary_pct": 0.25,
                "rotary_emb_base": 1e4,
                "rope_scaling": None,
                "rope_parameters": None,
            },
            ("rotary_percentage", "rotary_max_wavelength"),
            load_rope,
            lambda part, theta: (part, theta),
        ),
        # "gelu", the default, is the exact one, which GPTNeoXBackbone does not have.
        demanded("hidden_act", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"),
        fixed("use_parallel_residual", True),
        only("attention_bias", True),
        Key({"tie_word_embeddings": False}, (), check_head, lambda: (True,)),
    ),
    ignored=("classifier_dropout", "is_decoder", "rope_theta"),
    weights=(
        rule("gpt_neox.embed_in.weight", "token_embedding.weight"),
        *under("gpt_neox.layers.{}.", "transformer_layers.{}.", BLOCK),
        *layer("gpt_neox.final_layer_norm", "layer_norm"),
    ),
    renames=tuple(
        (name, f"gpt_neox.{name}") for name in ("embed_in.*", "layers.*", "final_layer_norm.*")
    ),
    dropped=(
        "gpt_neox.layers.{}.attention.bias",
        "gpt_neox.layers.{}.attention.masked_bias",
        "gpt_neox.layers.{}.attention.rotary_emb.inv_freq",
        "lm_head.weight",
        "embed_out.weight",
        "classifier.*",
        "qa_outputs.*",
        "score.*",
    ),
)
TABLES = (GPT_NEO_X,)
