"""BERT."""

from __future__ import annotations

from ...backbones.bert import BertBackbone
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
    *layer("attention.self.query", "self_attention_layer.query"),
    *layer("attention.self.key", "self_attention_layer.key"),
    *layer("attention.self.value", "self_attention_layer.value"),
    *layer("attention.output.dense", "self_attention_layer.attention_output"),
    *layer("attention.output.LayerNorm", "self_attention_layer_norm"),
    *layer("intermediate.dense", "feedforward_intermediate_dense"),
    *layer("output.dense", "feedforward_output_dense"),
    *layer("output.LayerNorm", "feedforward_layer_norm"),
)
BERT = Table(
    model_types=("bert",),
    backbone=BertBackbone,
    architecture="BertModel",
    config=(
        key("vocab_size", "vocabulary_size"),
        key("num_hidden_layers", "num_layers"),
        heads("num_attention_heads", "num_heads", "hidden_dim"),
        key("hidden_size", "hidden_dim"),
        key("intermediate_size", "intermediate_dim"),
        shared(("hidden_dropout_prob", "attention_probs_dropout_prob"), "dropout", 0.1),
        key("max_position_embeddings", "max_sequence_length"),
        key("type_vocab_size", "num_segments", 2),
        # KerasHub computes all BERTs with the tanh form, with which the original was trained.
        tanh_gelu("hidden_act", "gelu_pytorch_tanh", "gelu_new"),
        assumed("layer_norm_eps", 1e-12),
        only("position_embedding_type", "absolute"),
        only("is_decoder", False),
        only("add_cross_attention", False),
    ),
    ignored=("classifier_dropout", "directionality", "pooler_*", "tie_word_embeddings"),
    weights=(
        rule("embeddings.word_embeddings.weight", "token_embedding.weight"),
        rule("embeddings.position_embeddings.weight", "position_embedding.weight"),
        rule("embeddings.token_type_embeddings.weight", "segment_embedding.weight"),
        *layer("embeddings.LayerNorm", "embeddings_layer_norm"),
        *under("encoder.layer.{}.", "transformer_layers.{}.", BLOCK),
        *layer("pooler.dense", "pooled_dense"),
    ),
    renames=(
        ("bert.*", "*"),
        ("*LayerNorm.gamma", "*LayerNorm.weight"),
        ("*LayerNorm.beta", "*LayerNorm.bias"),
    ),
    dropped=("embeddings.position_ids", "cls.*", "classifier.*", "qa_outputs.*"),
    optional=("pooled_dense.*",),
)
TABLES = (BERT,)
