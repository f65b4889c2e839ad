"""ESM."""

from __future__ import annotations

from typing import Any

from ...backbones.esm import ESMBackbone
from ...backbones.layers.activations import activation_name
from ..checkpoints.table import Key, Table, assumed, heads, key, layer, only, rule, skip, under

# transformers counts from pad_token_id + 1, KerasHub from pad_token_id. The row before, which is
# then theirs alone, has no token.
SHIFT = 1


def load_positions(rows: int, kind: str) -> tuple[int, str]:
    if kind not in ("absolute", "rotary"):
        raise ValueError(
            f"position_embedding_type is {kind!r}; only absolute or rotary is possible"
        )
    return (rows - SHIFT if kind == "absolute" else rows), kind


def save_positions(length: int, kind: str) -> tuple[int, str]:
    return (length + SHIFT if kind == "absolute" else length), kind


def check_options(activation: Any, use_bias: bool) -> tuple[()]:
    if activation_name(activation) != "gelu":
        raise ValueError(f"activation is {activation!r}; transformers has only 'gelu'")
    if not use_bias:
        raise ValueError("use_bias is False; transformers has only True")
    return ()


BLOCK = (
    *layer("attention.self.query", "attention_layer.q_dense_layer"),
    *layer("attention.self.key", "attention_layer.k_dense_layer"),
    *layer("attention.self.value", "attention_layer.v_dense_layer"),
    *layer("attention.output.dense", "attention_layer.o_dense_layer"),
    *layer("attention.LayerNorm", "attention_norm"),
    *layer("intermediate.dense", "feedforward_intermediate_dense"),
    *layer("output.dense", "feedforward_output_dense"),
    *layer("LayerNorm", "ffn_norm"),
)
ESM = Table(
    model_types=("esm",),
    backbone=ESMBackbone,
    architecture="EsmModel",
    config=(
        key("vocab_size", "vocabulary_size"),
        key("num_hidden_layers", "num_layers"),
        heads("num_attention_heads", "num_heads", "hidden_dim"),
        key("hidden_size", "hidden_dim"),
        key("intermediate_size", "intermediate_dim"),
        key("hidden_dropout_prob", "dropout", 0.1),
        # The attention of KerasHub has no dropout.
        Key({"attention_probs_dropout_prob": 0.1}, (), lambda rate: (), lambda: (0.0,)),
        Key(
            {"max_position_embeddings": 1026, "position_embedding_type": "absolute"},
            ("max_sequence_length", "position_embedding_type"),
            load_positions,
            save_positions,
        ),
        key("rope_theta", "max_wavelength", 1e4, save=float),
        key("layer_norm_eps", "layer_norm_eps", 1e-12),
        key("emb_layer_norm_before", "use_pre_layer_norm", False, load=bool),
        key("pad_token_id", "pad_token_id"),
        # KerasHub does not make up for the tokens that were masked in training.
        assumed("token_dropout", False),
        Key({}, ("activation", "use_bias"), lambda: ("gelu", True), check_options),
        only("is_folding_model", False),
        only("is_decoder", False),
        only("add_cross_attention", False),
    ),
    ignored=(
        "classifier_dropout",
        "esmfold_config",
        "mask_token_id",
        "tie_word_embeddings",
        "vocab_list",
    ),
    weights=(
        rule("embeddings.word_embeddings.weight", "token_embedding.weight"),
        rule("embeddings.position_embeddings.weight", "position_embedding.weight", skip(SHIFT)),
        *layer("embeddings.layer_norm", "emb_layer_norm"),
        *under("encoder.layer.{}.", "transformer_layers.{}.", BLOCK),
        *layer("encoder.emb_layer_norm_after", "output_layer_norm"),
    ),
    renames=(
        ("esm.*", "*"),
        # transformers 5 writes these, and reads both.
        ("*LayerNorm.gamma", "*LayerNorm.weight"),
        ("*LayerNorm.beta", "*LayerNorm.bias"),
    ),
    dropped=(
        "embeddings.position_embeddings.weight",  # where they are rotary
        "embeddings.position_ids",
        "*rotary_embeddings.inv_freq",
        "classifier.*",
        "contact_head.*",
        "lm_head.*",
        "pooler.*",
    ),
)
TABLES = (ESM,)
