"""DeBERTa V2 and V3."""

from __future__ import annotations

from ...backbones.deberta_v3 import DebertaV3Backbone
from ..checkpoints.table import (
    REQUIRED,
    Key,
    Table,
    assumed,
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


def check_sizes(width: int, heads: int, embedding: int | None, head: int | None) -> tuple[()]:
    if embedding not in (None, width):
        raise ValueError(f"embedding_size is {embedding}; only hidden_size {width} is possible")
    if head not in (None, width // heads):
        raise ValueError(
            f"attention_head_size is {head}; only {width // heads}, as hidden_size by "
            "num_attention_heads, is possible"
        )
    return ()


def check_buckets(count: int) -> int:
    if count < 1:
        raise ValueError(f"position_buckets is {count}; distances without buckets are not possible")
    return count


BLOCK = (
    *layer("attention.self.query_proj", "self_attention_layer.query"),
    *layer("attention.self.key_proj", "self_attention_layer.key"),
    *layer("attention.self.value_proj", "self_attention_layer.value"),
    *layer("attention.output.dense", "self_attention_layer.attention_output"),
    *layer("attention.output.LayerNorm", "self_attention_layer_norm"),
    *layer("intermediate.dense", "feedforward_intermediate_dense"),
    *layer("output.dense", "feedforward_output_dense"),
    *layer("output.LayerNorm", "feedforward_layer_norm"),
)
DEBERTA_V3 = Table(
    model_types=("deberta-v2",),
    backbone=DebertaV3Backbone,
    architecture="DebertaV2Model",
    config=(
        key("vocab_size", "vocabulary_size"),
        key("num_hidden_layers", "num_layers"),
        heads("num_attention_heads", "num_heads", "hidden_dim"),
        key("hidden_size", "hidden_dim"),
        key("intermediate_size", "intermediate_dim"),
        shared(("hidden_dropout_prob", "attention_probs_dropout_prob"), "dropout", 0.1),
        Key(
            {"max_position_embeddings": 512, "max_relative_positions": -1},
            ("max_sequence_length",),
            lambda length, distance: (distance if distance >= 1 else length,),
            lambda length: (length, -1),
        ),
        key("position_buckets", "bucket_size", -1, load=check_buckets),
        demanded("relative_attention", False, True),
        demanded("share_att_key", False, True),
        demanded("norm_rel_ebd", "none", "layer_norm"),
        demanded("position_biased_input", True, False),
        demanded("pos_att_type", None, "p2c|c2p", "c2p|p2c", ["p2c", "c2p"], ["c2p", "p2c"]),
        fixed("type_vocab_size", 0),
        fixed("hidden_act", "gelu"),
        assumed("layer_norm_eps", 1e-7),
        only("conv_kernel_size", 0),
        Key(
            {
                "hidden_size": REQUIRED,
                "num_attention_heads": REQUIRED,
                "embedding_size": None,
                "attention_head_size": None,
            },
            (),
            check_sizes,
            tuple,
        ),
    ),
    ignored=("cls_dropout", "legacy", "pooler_*", "tie_word_embeddings"),
    weights=(
        rule("embeddings.word_embeddings.weight", "token_embedding.weight"),
        *layer("embeddings.LayerNorm", "embeddings_layer_norm"),
        rule("encoder.rel_embeddings.weight", "rel_embedding.weight"),
        *layer("encoder.LayerNorm", "rel_embedding.rel_embeddings_layer_norm"),
        *under("encoder.layer.{}.", "transformer_layers.{}.", BLOCK),
    ),
    renames=(("deberta.*", "*"),),
    dropped=(
        # Of the pretraining's decoder, which `position_biased_input` says is not here.
        "embeddings.position_embeddings.weight",
        "embeddings.position_ids",
        "classifier.*",
        "cls.*",
        "lm_predictions.*",
        "mask_predictions.*",
        "pooler.*",
        "qa_outputs.*",
    ),
)
TABLES = (DEBERTA_V3,)
