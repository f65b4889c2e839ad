"""ELECTRA."""

from __future__ import annotations

from ...backbones.electra import ElectraBackbone
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
from .bert import BLOCK

ELECTRA = Table(
    model_types=("electra",),
    backbone=ElectraBackbone,
    architecture="ElectraModel",
    config=(
        key("vocab_size", "vocab_size"),
        key("num_hidden_layers", "num_layers"),
        heads("num_attention_heads", "num_heads", "hidden_dim"),
        key("hidden_size", "hidden_dim"),
        key("embedding_size", "embedding_dim"),
        key("intermediate_size", "intermediate_dim"),
        shared(("hidden_dropout_prob", "attention_probs_dropout_prob"), "dropout", 0.1),
        key("max_position_embeddings", "max_sequence_length", 512),
        key("type_vocab_size", "num_segments", 2),
        # As in BERT's table.
        tanh_gelu("hidden_act", "gelu_pytorch_tanh", "gelu_new"),
        assumed("layer_norm_eps", 1e-12),
        only("position_embedding_type", "absolute"),
        only("is_decoder", False),
        only("add_cross_attention", False),
    ),
    ignored=("classifier_dropout", "summary_*", "tie_word_embeddings"),
    weights=(
        rule("embeddings.word_embeddings.weight", "token_embedding.weight"),
        rule("embeddings.position_embeddings.weight", "position_embedding.weight"),
        rule("embeddings.token_type_embeddings.weight", "segment_embedding.weight"),
        *layer("embeddings.LayerNorm", "embeddings_layer_norm"),
        *layer("embeddings_project", "embeddings_projection"),
        *under("encoder.layer.{}.", "transformer_layers.{}.", BLOCK),
        # ElectraModel has no pooled output. It leaves these two unread.
        *layer("pooler.dense", "pooled_dense"),
    ),
    renames=(("electra.*", "*"),),
    dropped=(
        "embeddings.position_ids",
        "classifier.*",
        "discriminator_predictions.*",
        "generator_lm_head.*",
        "generator_predictions.*",
        "qa_outputs.*",
        "sequence_summary.*",
    ),
    optional=("pooled_dense.*",),
)
TABLES = (ELECTRA,)
