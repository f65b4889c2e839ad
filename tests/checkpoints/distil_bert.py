from __future__ import annotations

from ..cases.gpt2 import inputs
from . import UNPOOLED, Checkpoint

CONFIG = {
    "vocab_size": 37,
    "n_layers": 2,
    "n_heads": 3,
    "dim": 12,
    "hidden_dim": 20,
    "max_position_embeddings": 17,
    "dropout": 0.2,
    "attention_dropout": 0.2,
}
CHECKPOINTS = [
    Checkpoint(
        "distil-bert",
        "DistilBertModel",
        "DistilBertBackbone",
        CONFIG,
        UNPOOLED,
        inputs(4, 9),
        in_keras_hub=False,  # it wants the names of the model with a head
    ),
    Checkpoint(
        "distil-bert-masked",
        "DistilBertForMaskedLM",
        "DistilBertBackbone",
        {**CONFIG, "n_layers": 12},
        UNPOOLED,
        inputs(4, 17),
    ),
    Checkpoint(
        "distil-bert-classifier",
        "DistilBertForSequenceClassification",
        "DistilBertBackbone",
        {**CONFIG, "sinusoidal_pos_embds": True},
        UNPOOLED,
        inputs(1, 1),
    ),
]
INEXPRESSIBLE = {"distil-bert-odd": "hidden_dim 13 is not divisible by num_heads 5"}
HEADS = [
    ("DistilBertForTokenClassification", CONFIG),
    ("DistilBertForQuestionAnswering", CONFIG),
    ("DistilBertForMultipleChoice", CONFIG),
]
REFUSED = [("distil-bert", {"activation": "relu"}, "activation is 'relu'; only 'gelu'")]
