"""Falcon."""

from __future__ import annotations

from ...backbones.falcon import FalconBackbone
from ..checkpoints.table import (
    Key,
    Table,
    constant,
    demanded,
    either,
    fixed,
    interleave,
    key,
    layer,
    only,
    rule,
    under,
)


def check_heads(key_value: int | None, count: int | None, old: int | None) -> tuple[()]:
    if key_value not in (None, count or old):
        raise ValueError(f"num_kv_heads is {key_value}; only one for each head can be computed")
    return ()


def fused(name: str) -> tuple[str, ...]:
    return tuple(f"attention.{part}_dense.{name}" for part in ("query", "key", "value"))


BLOCK = (
    *layer("input_layernorm", "input_layernorm"),
    rule(
        "self_attention.query_key_value.weight", fused("weight"), interleave("num_attention_heads")
    ),
    rule("self_attention.query_key_value.bias", fused("bias"), interleave("num_attention_heads")),
    *layer("self_attention.dense", "attention.output_dense"),
    *layer("post_attention_layernorm", "post_attention_layernorm"),
    *layer("mlp.dense_h_to_4h", "dense_h_to_4h"),
    *layer("mlp.dense_4h_to_h", "dense_4h_to_h"),
)
# The variant of Falcon-RW alone. (transformers rounds its linear biases to bfloat16, which shows
# where the number of heads is no power of two or 16 and more.)
FALCON = Table(
    model_types=("falcon",),
    backbone=FalconBackbone,
    architecture="FalconForCausalLM",
    config=(
        key("vocab_size", "vocabulary_size"),
        either(("num_hidden_layers", "n_layer"), "num_layers"),
        either(("num_attention_heads", "n_head"), "num_attention_heads"),
        Key(
            {"num_kv_heads": None, "num_attention_heads": None, "n_head": None},
            (),
            check_heads,
            tuple,
        ),
        either(("hidden_size", "n_embed"), "hidden_dim"),
        Key(
            {"ffn_hidden_size": None, "hidden_size": None, "n_embed": None},
            ("intermediate_dim",),
            lambda size, *widths: (size or 4 * next(filter(None, widths), 0),),
            lambda size: (size,),
        ),
        key("attention_dropout", "attention_dropout_rate", 0.0),
        key("hidden_dropout", "feedforward_dropout_rate", 0.0),
        fixed("layer_norm_epsilon", 1e-5),
        constant(layer_norm_epsilon=1e-5),
        fixed("activation", "gelu"),
        demanded("alibi", False, True),
        demanded("bias", False, True),
        demanded("multi_query", True, False),
        demanded("parallel_attn", True, False),
        fixed("new_decoder_architecture", False),
        only("apply_residual_connection_post_layernorm", False),
        only("tie_word_embeddings", True),
    ),
    ignored=(
        "max_position_embeddings",
        "num_ln_in_parallel_attn",
        "rope_*",  # there are none with linear biases
    ),
    weights=(
        rule("transformer.word_embeddings.weight", "token_embedding.weight"),
        *under("transformer.h.{}.", "transformer_layers.{}.", BLOCK),
        *layer("transformer.ln_f", "final_layernorm"),
    ),
    renames=tuple((name, f"transformer.{name}") for name in ("word_embeddings.*", "h.*", "ln_f.*")),
    dropped=("classifier.*", "qa_outputs.*", "score.*"),
    tied={"lm_head.weight": "transformer.word_embeddings.weight"},
)
TABLES = (FALCON,)
