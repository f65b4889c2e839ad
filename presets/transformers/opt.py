"""OPT."""

from __future__ import annotations

from ...backbones.opt import OPTBackbone
from ..checkpoints.table import (
    REQUIRED,
    Key,
    Table,
    fixed,
    heads,
    key,
    layer,
    only,
    rule,
    shared,
    skip,
    under,
)

# transformers counts the tokens that are no padding from 2, and reads row 1 for padding alone.
OFFSET = 2


def check_embedding(size: int | None, width: int) -> tuple[()]:
    if size not in (None, width):
        raise ValueError(f"word_embed_proj_dim is {size}; only hidden_size {width} is known")
    return ()


BLOCK = (
    *layer("self_attn_layer_norm", "self_attention_layer_norm"),
    *layer("self_attn.q_proj", "self_attention.query"),
    *layer("self_attn.k_proj", "self_attention.key"),
    *layer("self_attn.v_proj", "self_attention.value"),
    *layer("self_attn.out_proj", "self_attention.attention_output"),
    *layer("final_layer_norm", "feedforward_layer_norm"),
    *layer("fc1", "feedforward_intermediate_dense"),
    *layer("fc2", "feedforward_output_dense"),
)
OPT = Table(
    model_types=("opt",),
    backbone=OPTBackbone,
    architecture="OPTForCausalLM",
    config=(
        key("vocab_size", "vocabulary_size"),
        key("num_hidden_layers", "num_layers"),
        heads("num_attention_heads", "num_heads", "hidden_dim"),
        key("hidden_size", "hidden_dim"),
        key("ffn_dim", "intermediate_dim"),
        shared(("dropout", "attention_dropout"), "dropout", 0.1),
        key("max_position_embeddings", "max_sequence_length", 2048),
        Key({"word_embed_proj_dim": None, "hidden_size": REQUIRED}, (), check_embedding, tuple),
        fixed("activation_function", "relu"),
        fixed("do_layer_norm_before", True),
        only("_remove_final_layer_norm", False),
        only("enable_bias", True),
        only("layer_norm_elementwise_affine", True),
        only("tie_word_embeddings", True),
    ),
    ignored=("activation_dropout", "init_std", "layerdrop"),
    weights=(
        rule("model.decoder.embed_tokens.weight", "embeddings.token_embedding.weight"),
        rule(
            "model.decoder.embed_positions.weight",
            "embeddings.position_embedding.weight",
            skip(OFFSET),
        ),
        *under("model.decoder.layers.{}.", "transformer_layers.{}.", BLOCK),
        *layer("model.decoder.final_layer_norm", "layer_norm"),
    ),
    renames=(("decoder.*", "model.decoder.*"),),
    dropped=("model.decoder.version", "score.*", "qa_outputs.*"),
    tied={"lm_head.weight": "model.decoder.embed_tokens.weight"},
)
TABLES = (OPT,)
