"""BLOOM."""

from __future__ import annotations

from ...backbones.bloom import BloomBackbone
from ..checkpoints.table import (
    Key,
    Table,
    either,
    interleave,
    key,
    layer,
    only,
    rule,
    shared,
    under,
)


def check_width(intermediate: int, width: int) -> tuple[()]:
    if intermediate != 4 * width:
        raise ValueError(
            f"intermediate_dim is {intermediate}; transformers has only 4 × hidden_dim {width}"
        )
    return ()


def fused(name: str) -> tuple[str, ...]:
    return tuple(f"self_attention.{part}_dense.{name}" for part in ("query", "key", "value"))


BLOCK = (
    *layer("input_layernorm", "pre_attention_layernorm"),
    rule("self_attention.query_key_value.weight", fused("weight"), interleave("num_heads")),
    rule("self_attention.query_key_value.bias", fused("bias"), interleave("num_heads")),
    *layer("self_attention.dense", "self_attention.output_dense"),
    *layer("post_attention_layernorm", "post_attention_layernorm"),
    *layer("mlp.dense_h_to_4h", "mlp_intermediate_dense"),
    *layer("mlp.dense_4h_to_h", "mlp_output_dense"),
)
BLOOM = Table(
    model_types=("bloom",),
    backbone=BloomBackbone,
    architecture="BloomForCausalLM",
    config=(
        key("vocab_size", "vocabulary_size"),
        either(("n_layer", "num_hidden_layers"), "num_layers"),
        either(("n_head", "num_attention_heads"), "num_heads"),
        either(("hidden_size", "n_embed"), "hidden_dim"),
        Key(
            {"hidden_size": None, "n_embed": None},
            ("intermediate_dim", "hidden_dim"),
            lambda *widths: (4 * next(filter(None, widths), 0),),
            check_width,
        ),
        shared(("hidden_dropout", "attention_dropout"), "dropout", 0.0),
        key("layer_norm_epsilon", "layer_norm_epsilon", 1e-5),
        only("apply_residual_connection_post_layernorm", False),
        only("tie_word_embeddings", True),
    ),
    ignored=(
        "attention_softmax_in_fp32",
        "bias_dropout_fusion",
        "masked_softmax_fusion",
        "offset_alibi",
        "pretraining_tp",
        "seq_length",
        "skip_bias_add",
        "skip_bias_add_qkv",
        "slow_but_exact",
        "unk_token_id",
    ),
    weights=(
        rule("transformer.word_embeddings.weight", "token_embedding.weight"),
        *layer("transformer.word_embeddings_layernorm", "embedding_layernorm"),
        *under("transformer.h.{}.", "transformer_layers.{}.", BLOCK),
        *layer("transformer.ln_f", "final_layernorm"),
    ),
    renames=tuple(
        (name, f"transformer.{name}")
        for name in ("word_embeddings.*", "word_embeddings_layernorm.*", "h.*", "ln_f.*")
    ),
    dropped=("classifier.*", "qa_outputs.*", "score.*"),
    tied={"lm_head.weight": "transformer.word_embeddings.weight"},
)
TABLES = (BLOOM,)
