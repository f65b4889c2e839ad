from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..cases.t5 import inputs
from . import ENCODER_DECODER, Checkpoint

CONFIG = {
    "vocab_size": 31,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "d_model": 12,
    "encoder_ffn_dim": 18,
    "decoder_ffn_dim": 18,
    "max_position_embeddings": 19,
    "dropout": 0.2,
    "attention_dropout": 0.2,
}
INTERFACE = replace(
    ENCODER_DECODER,
    zeroed={f"{side}.embed_positions.weight": 2 for side in ("encoder", "decoder")},
)


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    config = {**CONFIG, **others}
    # KerasHub wants a key that transformers 5 does not write.
    return Checkpoint(
        name, architecture, "BartBackbone", config, INTERFACE, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("bart", "BartModel", inputs(4, 9, 6)),
    checkpoint("bart-generation", "BartForConditionalGeneration", inputs(4, 4, 19)),
    checkpoint("bart-classifier", "BartForSequenceClassification", inputs(1, 1, 1)),
]
INEXPRESSIBLE = {"bart-deep": "hidden_dim 10 is not divisible by num_heads 3"}
HEADS = [("BartForQuestionAnswering", CONFIG)]
REFUSED = [
    ("bart", {"scale_embedding": True}, "scale_embedding is True; only False"),
    ("bart", {"decoder_layers": 3}, "encoder_layers is 2 and decoder_layers 3"),
    ("bart", {"decoder_attention_heads": 4}, "decoder_attention_heads 4"),
    ("bart", {"decoder_ffn_dim": 7}, "encoder_ffn_dim is 18 and decoder_ffn_dim 7"),
    ("bart", {"activation_function": "relu"}, "activation_function is 'relu'"),
    ("bart", {"normalize_before": True}, "normalize_before is True"),
]
