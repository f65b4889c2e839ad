"""DistilBERT."""

from __future__ import annotations

from ...backbones.distil_bert import DistilBertBackbone
from ..checkpoints.table import Table, fixed, heads, key, layer, rule, shared, under

BLOCK = (
    *layer("attention.q_lin", "self_attention_layer.query"),
    *layer("attention.k_lin", "self_attention_layer.key"),
    *layer("attention.v_lin", "self_attention_layer.value"),
    *layer("attention.out_lin", "self_attention_layer.attention_output"),
    *layer("sa_layer_norm", "self_attention_layer_norm"),
    *layer("ffn.lin1", "feedforward_intermediate_dense"),
    *layer("ffn.lin2", "feedforward_output_dense"),
    *layer("output_layer_norm", "feedforward_layer_norm"),
)
EMBEDDINGS = "token_and_position_embedding"
DISTIL_BERT = Table(
    model_types=("distilbert",),
    backbone=DistilBertBackbone,
    architecture="DistilBertModel",
    config=(
        key("vocab_size", "vocabulary_size"),
        key("n_layers", "num_layers"),
        heads("n_heads", "num_heads", "hidden_dim"),
        key("dim", "hidden_dim"),
        key("hidden_dim", "intermediate_dim"),
        shared(("dropout", "attention_dropout"), "dropout", 0.1),
        key("max_position_embeddings", "max_sequence_length", 512),
        fixed("activation", "gelu"),
    ),
    # Sinusoidal positions are stored like learned ones.
    ignored=("qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds", "tie_*"),
    weights=(
        rule("embeddings.word_embeddings.weight", f"{EMBEDDINGS}.token_embedding.weight"),
        rule("embeddings.position_embeddings.weight", f"{EMBEDDINGS}.position_embedding.weight"),
        *layer("embeddings.LayerNorm", "embeddings_layer_norm"),
        *under("transformer.layer.{}.", "transformer_layers.{}.", BLOCK),
    ),
    renames=(
        ("distilbert.*", "*"),
        ("*LayerNorm.gamma", "*LayerNorm.weight"),
        ("*LayerNorm.beta", "*LayerNorm.bias"),
    ),
    dropped=(
        "embeddings.position_ids",
        "classifier.*",
        "pre_classifier.*",
        "qa_outputs.*",
        "vocab_*",
    ),
)
TABLES = (DISTIL_BERT,)
