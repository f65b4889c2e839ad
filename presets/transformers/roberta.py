"""RoBERTa, and what XLM-RoBERTa shares."""

from __future__ import annotations

import torch

from ...backbones._model import Model
from ...backbones.roberta import RobertaBackbone
from ..checkpoints.table import (
    Operation,
    Rule,
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
    skip,
    under,
)
from .bert import BLOCK

# transformers counts positions from 2. Of the rows before it reads one, and for padding only.
OFFSET = 2


# transformers adds the embedding of the only segment to that of each position.
SEGMENT = Operation(
    save=lambda tensors: [tensors[0], torch.zeros_like(tensors[0][:1])],
    load=lambda tensors, shapes: [tensors[0] + tensors[1]],
)


def roberta(model_type: str, backbone: type[Model], architecture: str) -> Table:
    return Table(
        model_types=(model_type,),
        backbone=backbone,
        architecture=architecture,
        config=(
            key("vocab_size", "vocabulary_size"),
            key("num_hidden_layers", "num_layers"),
            heads("num_attention_heads", "num_heads", "hidden_dim"),
            key("hidden_size", "hidden_dim"),
            key("intermediate_size", "intermediate_dim"),
            shared(("hidden_dropout_prob", "attention_probs_dropout_prob"), "dropout", 0.1),
            key(
                "max_position_embeddings",
                "max_sequence_length",
                load=lambda rows: rows - OFFSET,
                save=lambda length: length + OFFSET,
            ),
            demanded("type_vocab_size", 2, 1),
            fixed("pad_token_id", OFFSET - 1),
            fixed("hidden_act", "gelu"),
            # Without the key transformers takes 1e-12, which no published model wants.
            assumed("layer_norm_eps", 1e-5),
            only("position_embedding_type", "absolute"),
            only("is_decoder", False),
            only("add_cross_attention", False),
        ),
        ignored=("classifier_dropout", "tie_word_embeddings"),
        weights=(
            rule("embeddings.word_embeddings.weight", "embeddings.token_embedding.weight"),
            Rule(
                (
                    "embeddings.position_embeddings.weight",
                    "embeddings.token_type_embeddings.weight",
                ),
                ("embeddings.position_embedding.weight",),
                (SEGMENT, skip(OFFSET)),
            ),
            *layer("embeddings.LayerNorm", "embeddings_layer_norm"),
            *under("encoder.layer.{}.", "transformer_layers.{}.", BLOCK),
        ),
        renames=(
            ("roberta.*", "*"),
            ("*LayerNorm.gamma", "*LayerNorm.weight"),
            ("*LayerNorm.beta", "*LayerNorm.bias"),
        ),
        dropped=(
            "embeddings.position_ids",
            "classifier.*",
            "lm_head.*",
            "pooler.*",
            "qa_outputs.*",
        ),
    )


TABLES = (roberta("roberta", RobertaBackbone, "RobertaModel"),)
