"""ALBERT."""

from __future__ import annotations

from ...backbones.albert import AlbertBackbone
from ..checkpoints.table import (
    Table,
    assumed,
    heads,
    key,
    layer,
    only,
    rule,
    shared,
    tanh_gelu,
    under,
)

BLOCK = (
    *layer("attention.query", "self_attention_layer.query"),
    *layer("attention.key", "self_attention_layer.key"),
    *layer("attention.value", "self_attention_layer.value"),
    *layer("attention.dense", "self_attention_layer.attention_output"),
    *layer("attention.LayerNorm", "self_attention_layer_norm"),
    *layer("ffn", "feedforward_intermediate_dense"),
    *layer("ffn_output", "feedforward_output_dense"),
    *layer("full_layer_layer_norm", "feedforward_layer_norm"),
)
ALBERT = Table(
    model_types=("albert",),
    backbone=AlbertBackbone,
    architecture="AlbertModel",
    config=(
        key("vocab_size", "vocabulary_size"),
        key("num_hidden_layers", "num_layers"),
        heads("num_attention_heads", "num_heads", "hidden_dim"),
        key("embedding_size", "embedding_dim"),
        key("hidden_size", "hidden_dim"),
        key("intermediate_size", "intermediate_dim"),
        key("num_hidden_groups", "num_groups", 1),
        key("inner_group_num", "num_inner_repetitions", 1),
        shared(("hidden_dropout_prob", "attention_probs_dropout_prob"), "dropout", 0.0),
        key("max_position_embeddings", "max_sequence_length", 512),
        key("type_vocab_size", "num_segments", 2),
        # As in BERT's table.
        tanh_gelu("hidden_act", "gelu_new", "gelu_pytorch_tanh"),
        assumed("layer_norm_eps", 1e-12),
        only("position_embedding_type", "absolute"),
    ),
    ignored=(
        "classifier_dropout_prob",
        "down_scale_factor",
        "gap_size",
        "net_structure_type",
        "num_memory_blocks",
        "tie_word_embeddings",
    ),
    weights=(
        rule("embeddings.word_embeddings.weight", "token_embedding.weight"),
        rule("embeddings.position_embeddings.weight", "position_embedding.weight"),
        rule("embeddings.token_type_embeddings.weight", "segment_embedding.weight"),
        *layer("embeddings.LayerNorm", "embeddings_layer_norm"),
        *layer("encoder.embedding_hidden_mapping_in", "embedding_projection"),
        *under(
            "encoder.albert_layer_groups.{}.albert_layers.{}.", "transformer_layers.{}.{}.", BLOCK
        ),
        *layer("pooler", "pooled_dense"),
    ),
    renames=(("albert.*", "*"),),
    dropped=(
        "embeddings.position_ids",
        "classifier.*",
        "predictions.*",
        "qa_outputs.*",
        "sop_classifier.*",
    ),
    optional=("pooled_dense.*",),
)
TABLES = (ALBERT,)
