"""FNet."""

from __future__ import annotations

from ...backbones.f_net import FNetBackbone
from ..checkpoints.table import Table, assumed, fixed, key, layer, rule, under

BLOCK = (
    *layer("fourier.output.LayerNorm", "mixing_layer_norm"),
    *layer("intermediate.dense", "intermediate_dense"),
    *layer("output.dense", "output_dense"),
    *layer("output.LayerNorm", "output_layer_norm"),
)
F_NET = Table(
    model_types=("fnet",),
    backbone=FNetBackbone,
    architecture="FNetModel",
    config=(
        key("vocab_size", "vocabulary_size"),
        key("num_hidden_layers", "num_layers"),
        key("hidden_size", "hidden_dim"),
        key("intermediate_size", "intermediate_dim"),
        key("hidden_dropout_prob", "dropout", 0.1),
        key("max_position_embeddings", "max_sequence_length", 512),
        key("type_vocab_size", "num_segments", 4),
        fixed("hidden_act", "gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
        assumed("layer_norm_eps", 1e-12),
    ),
    # The optimizations compute the same transform by other means.
    ignored=("tie_word_embeddings", "tpu_short_seq_length", "use_tpu_fourier_optimizations"),
    weights=(
        rule("embeddings.word_embeddings.weight", "token_embedding.weight"),
        rule("embeddings.position_embeddings.weight", "position_embedding.weight"),
        rule("embeddings.token_type_embeddings.weight", "segment_embedding.weight"),
        *layer("embeddings.LayerNorm", "embeddings_layer_norm"),
        *layer("embeddings.projection", "embedding_projection"),
        *under("encoder.layer.{}.", "transformer_layers.{}.", BLOCK),
        *layer("pooler.dense", "pooled_dense"),
    ),
    renames=(("fnet.*", "*"),),
    dropped=("embeddings.position_ids", "classifier.*", "cls.*", "qa_outputs.*"),
    optional=("pooled_dense.*",),
)
TABLES = (F_NET,)
