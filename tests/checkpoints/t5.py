from __future__ import annotations

from typing import Any

from torch import nn

from ..cases.t5 import inputs
from . import ENCODER_DECODER, Checkpoint

CONFIG = {
    "vocab_size": 31,
    "num_layers": 2,
    "num_heads": 3,
    "d_model": 12,
    "d_ff": 18,
    "d_kv": 5,
    "dropout_rate": 0.2,
}


def untie(model: Any) -> None:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model.all_tied_weights_keys.pop("lm_head.weight")


def checkpoint(name: str, architecture: str, batch: int, **others: Any) -> Checkpoint:
    change = {"change": others.pop("change")} if "change" in others else {}
    return Checkpoint(
        name,
        architecture,
        "T5Backbone",
        {**CONFIG, **others},
        ENCODER_DECODER,
        inputs(batch, 9, 6),
        in_keras_hub=False,
        **change,
    )


CHECKPOINTS = [
    checkpoint("t5", "T5ForConditionalGeneration", 4),
    checkpoint(
        "t5-flan",
        "T5ForConditionalGeneration",
        4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        change=untie,
    ),
    checkpoint("t5-bare", "T5Model", 4, feed_forward_proj="gated-silu", layer_norm_epsilon=1e-3),
    checkpoint("t5-exact-gelu", "T5Model", 1, feed_forward_proj="gelu"),
    checkpoint("t5-classifier", "T5ForSequenceClassification", 4),
]
