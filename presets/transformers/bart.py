"""BART."""

from __future__ import annotations

from ...backbones.bart import BartBackbone
from ..checkpoints.table import (
    REQUIRED,
    Key,
    Rule,
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

# transformers counts positions from 2, whatever is padding, and never reads the rows before.
OFFSET = 2


def alike(name: str, ours: str) -> Key:
    """A size of the encoder and the decoder, which must be equal."""
    first, second = f"encoder_{name}", f"decoder_{name}"

    def check(size: int, other: int) -> tuple[int]:
        if size != other:
            raise ValueError(f"{first} is {size} and {second} {other}; only equal ones are known")
        return (size,)

    return Key({first: REQUIRED, second: REQUIRED}, (ours,), check, lambda size: (size, size))


def attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *layer(f"{theirs}.q_proj", f"{ours}.query"),
        *layer(f"{theirs}.k_proj", f"{ours}.key"),
        *layer(f"{theirs}.v_proj", f"{ours}.value"),
        *layer(f"{theirs}.out_proj", f"{ours}.attention_output"),
    )


def ends(side: str) -> tuple[Rule, ...]:
    return (
        rule(f"{side}.embed_positions.weight", f"{side}_position_embedding.weight", skip(OFFSET)),
        *layer(f"{side}.layernorm_embedding", f"{side}_embeddings_layer_norm"),
    )


BLOCK = (
    *layer("self_attn_layer_norm", "self_attention_layer_norm"),
    *layer("fc1", "feedforward_intermediate_dense"),
    *layer("fc2", "feedforward_output_dense"),
    *layer("final_layer_norm", "feedforward_layer_norm"),
)
BART = Table(
    model_types=("bart",),
    backbone=BartBackbone,
    architecture="BartModel",
    config=(
        key("vocab_size", "vocabulary_size"),
        alike("layers", "num_layers"),
        alike("attention_heads", "num_heads"),
        heads("encoder_attention_heads", "num_heads", "hidden_dim"),
        key("d_model", "hidden_dim"),
        alike("ffn_dim", "intermediate_dim"),
        shared(("dropout", "attention_dropout"), "dropout", 0.1),
        key("max_position_embeddings", "max_sequence_length", 1024),
        fixed("activation_function", "gelu"),
        fixed("scale_embedding", False),
        only("is_decoder", False),
        # Of older files; transformers computes with these values whatever they say.
        only("add_final_layer_norm", False),
        only("normalize_before", False),
        only("normalize_embedding", True),
        only("static_position_embeddings", False),
    ),
    ignored=(
        "activation_dropout",
        "add_bias_logits",
        "classif_dropout",
        "classifier_dropout",
        "decoder_layerdrop",
        "encoder_layerdrop",
        "extra_pos_embeddings",
        "init_std",
        "num_hidden_layers",
        "save_step",
        "tie_word_embeddings",
    ),
    weights=(
        rule("shared.weight", "token_embedding.weight"),
        *ends("encoder"),
        *under(
            "encoder.layers.{}.",
            "encoder_transformer_layers.{}.",
            (*attention("self_attn", "self_attention_layer"), *BLOCK),
        ),
        *ends("decoder"),
        *under(
            "decoder.layers.{}.",
            "decoder_transformer_layers.{}.",
            (
                *attention("self_attn", "self_attention"),
                *attention("encoder_attn", "cross_attention"),
                *layer("encoder_attn_layer_norm", "cross_attention_layer_norm"),
                *BLOCK,
            ),
        ),
    ),
    renames=(("model.*", "*"),),
    dropped=(
        "encoder.version",
        "decoder.version",
        "classification_head.*",
        "final_logits_bias",
        "qa_outputs.*",
    ),
    tied={
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    },
    extra={"decoder_start_token_id": 2},
)
TABLES = (BART,)
