from __future__ import annotations

from typing import Any

import torch

from ..cases.xlnet import inputs as batch_of
from . import ENCODER, Checkpoint, Interface

CONFIG = {
    "vocab_size": 37,
    "n_layer": 2,
    "n_head": 3,
    "d_model": 12,
    "d_inner": 20,
    "dropout": 0.2,
}


def alone(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One row, as KerasHub mixes those of a batch; the second one has padding."""
    return {name: value[1:2] if len(value) > 1 else value for name, value in inputs.items()}


def inputs(length: int) -> Any:
    draw = batch_of(2, length)
    return lambda rng: {name: value[1:] for name, value in draw(rng).items()}


INTERFACE = Interface(
    ENCODER.inputs, {"output": ("last_hidden_state", "padding_mask")}, adapt=alone
)


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    config = {**CONFIG, **others}
    return Checkpoint(
        name, architecture, "XLNetBackbone", config, INTERFACE, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("xlnet", "XLNetModel", inputs(9)),
    checkpoint("xlnet-language", "XLNetLMHeadModel", inputs(17), n_layer=12),
    checkpoint("xlnet-classifier", "XLNetForSequenceClassification", inputs(5), d_model=24),
    checkpoint("xlnet-relu", "XLNetForQuestionAnswering", inputs(1), ff_activation="relu"),
]
HEADS = [
    ("XLNetForTokenClassification", CONFIG),
    ("XLNetForQuestionAnsweringSimple", CONFIG),
    ("XLNetForMultipleChoice", CONFIG),
]
REFUSED = [
    ("xlnet", {"attn_type": "uni"}, "attn_type is 'uni'; only 'bi'"),
    ("xlnet", {"bi_data": True}, "bi_data is True"),
    ("xlnet", {"clamp_len": 5}, "clamp_len is 5"),
    ("xlnet", {"d_head": 5}, "d_head is 5; only 4"),
    ("xlnet", {"ff_activation": "tanh"}, "ff_activation is 'tanh'"),
]
