from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..cases.bert import inputs
from . import ENCODER, Checkpoint

CONFIG = {
    "vocab_size": 37,
    "embedding_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 12,
    "intermediate_size": 20,
    "max_position_embeddings": 17,
    "hidden_act": "gelu_new",
}
INTERFACE = replace(
    ENCODER,
    outputs={"sequence_output": ("last_hidden_state", None)},
    unmatched=("pooler.dense.weight", "pooler.dense.bias"),
)


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    config = {**CONFIG, **others}
    return Checkpoint(
        name, architecture, "ElectraBackbone", config, INTERFACE, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("electra", "ElectraModel", inputs(4, 9, 37)),
    checkpoint("electra-masked", "ElectraForMaskedLM", inputs(4, 17, 37), embedding_size=7),
    checkpoint(
        "electra-pretraining", "ElectraForPreTraining", inputs(4, 9, 37), num_hidden_layers=12
    ),
    checkpoint(
        "electra-classifier",
        "ElectraForSequenceClassification",
        inputs(1, 1, 37, 3),
        type_vocab_size=3,
    ),
]
INEXPRESSIBLE = {"electra-odd": "hidden_dim 13 is not divisible by num_heads 5"}
HEADS = [
    ("ElectraForTokenClassification", CONFIG),
    ("ElectraForQuestionAnswering", CONFIG),
    ("ElectraForMultipleChoice", CONFIG),
]
REFUSED = [
    ("electra", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ("electra", {"is_decoder": True}, "is_decoder is True"),
]
