from __future__ import annotations

from ..cases.bert import inputs
from . import ENCODER, Checkpoint

CONFIG = {
    "vocab_size": 37,
    "embedding_size": 7,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 12,
    "intermediate_size": 20,
    "max_position_embeddings": 17,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.2,
}
CHECKPOINTS = [
    Checkpoint(
        "albert",
        "AlbertModel",
        "AlbertBackbone",
        CONFIG,
        ENCODER,
        inputs(4, 9, 37),
        in_keras_hub=False,  # it wants the names of the model with a head
    ),
    Checkpoint(
        "albert-groups",
        "AlbertForPreTraining",
        "AlbertBackbone",
        {**CONFIG, "num_hidden_layers": 12, "num_hidden_groups": 3, "inner_group_num": 2},
        ENCODER,
        inputs(4, 17, 37),
    ),
    Checkpoint(
        "albert-classifier",
        "AlbertForSequenceClassification",
        "AlbertBackbone",
        {**CONFIG, "type_vocab_size": 3},
        ENCODER,
        inputs(1, 1, 37, 3),
    ),
]
INEXPRESSIBLE = {"albert-odd": "hidden_dim 13 is not divisible by num_heads 5"}
HEADS = [
    ("AlbertForMaskedLM", CONFIG),
    ("AlbertForTokenClassification", CONFIG),
    ("AlbertForQuestionAnswering", CONFIG),
    ("AlbertForMultipleChoice", CONFIG),
]
REFUSED = [
    ("albert", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ("albert", {"position_embedding_type": "relative_key"}, "'relative_key'"),
    ("albert", {"num_hidden_groups": 3}, "num_layers=2 is not a multiple of num_groups=3"),
]
