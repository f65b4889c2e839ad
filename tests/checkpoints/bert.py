from __future__ import annotations

from ..cases.bert import inputs
from . import ENCODER, Checkpoint

CONFIG = {
    "vocab_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 12,
    "intermediate_size": 20,
    "max_position_embeddings": 17,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.2,
}
CHECKPOINTS = [
    Checkpoint("bert", "BertModel", "BertBackbone", CONFIG, ENCODER, inputs(4, 9, 37)),
    Checkpoint(
        "bert-classifier",
        "BertForSequenceClassification",
        "BertBackbone",
        {**CONFIG, "num_hidden_layers": 12, "id2label": {0: "a", 1: "b", 2: "c"}},
        ENCODER,
        inputs(4, 17, 37),
    ),
    Checkpoint(
        "bert-pretraining",
        "BertForPreTraining",
        "BertBackbone",
        {**CONFIG, "type_vocab_size": 3},
        ENCODER,
        inputs(1, 1, 37, 3),
        in_keras_hub=False,  # it knows two segments
    ),
]
INEXPRESSIBLE = {"bert-uneven-heads": "hidden_dim 13 is not divisible by num_heads 5"}
