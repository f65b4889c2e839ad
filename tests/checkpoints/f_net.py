from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..cases.f_net import inputs
from . import ENCODER, Checkpoint

CONFIG = {
    "vocab_size": 37,
    "num_hidden_layers": 2,
    "hidden_size": 12,
    "intermediate_size": 20,
    "max_position_embeddings": 18,
    "hidden_dropout_prob": 0.2,
}
INTERFACE = replace(ENCODER, inputs={"token_ids": "input_ids", "segment_ids": "token_type_ids"})


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    config = {**CONFIG, **others}
    return Checkpoint(
        name, architecture, "FNetBackbone", config, INTERFACE, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("f-net", "FNetModel", inputs(4, 9)),
    checkpoint("f-net-pretraining", "FNetForPreTraining", inputs(4, 17), num_hidden_layers=12),
    checkpoint(
        "f-net-classifier", "FNetForSequenceClassification", inputs(1, 1, 2), type_vocab_size=2
    ),
]
HEADS = [
    ("FNetForMaskedLM", CONFIG),
    ("FNetForNextSentencePrediction", CONFIG),
    ("FNetForTokenClassification", CONFIG),
    ("FNetForQuestionAnswering", CONFIG),
    ("FNetForMultipleChoice", CONFIG),
]
REFUSED = [("f-net", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'gelu_new'")]
