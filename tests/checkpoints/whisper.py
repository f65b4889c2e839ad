from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ..cases.whisper import SMALL, inputs
from . import Checkpoint, Interface

CONFIG = {
    "vocab_size": 31,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "d_model": 12,
    "encoder_ffn_dim": 18,
    "decoder_ffn_dim": 18,
    "num_mel_bins": 7,
    "max_source_positions": 11,
    "max_target_positions": 13,
    "dropout": 0.2,
    "attention_dropout": 0.2,
    "decoder_start_token_id": 1,
    "pad_token_id": 0,
}


def fill(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers takes but the full length of features."""
    features = inputs["encoder_features"]
    missing = SMALL["max_encoder_sequence_length"] - features.shape[1]
    return {**inputs, "encoder_features": F.pad(features, (0, 0, 0, missing))}


INTERFACE = Interface(
    {
        "encoder_features": "input_features",
        "decoder_token_ids": "decoder_input_ids",
        "decoder_padding_mask": "decoder_attention_mask",
    },
    {
        "encoder_sequence_output": ("encoder_last_hidden_state", None),
        "decoder_sequence_output": ("last_hidden_state", "decoder_padding_mask"),
    },
    adapt=fill,
    forms={"encoder_features": lambda features: features.mT},
)


def checkpoint(name: str, architecture: str, batch: int, length: int, **others: Any) -> Checkpoint:
    return Checkpoint(
        name,
        architecture,
        "WhisperBackbone",
        {**CONFIG, **others},
        INTERFACE,
        inputs(batch, 22, length),
        in_keras_hub=False,
    )


CHECKPOINTS = [
    checkpoint("whisper", "WhisperModel", 4, 6),
    checkpoint(
        "whisper-generation", "WhisperForConditionalGeneration", 1, 13, encoder_layerdrop=0.1
    ),
]
INEXPRESSIBLE = {
    "whisper-deep": "hidden_dim 10 is not divisible by num_heads 3",
    "whisper-odd": "hidden_dim 7 is odd",
}
REFUSED = [
    ("whisper", {"scale_embedding": True}, "scale_embedding is True; only False"),
    ("whisper", {"decoder_layers": 3}, "encoder_layers is 2 and decoder_layers 3"),
    ("whisper", {"decoder_attention_heads": 4}, "decoder_attention_heads 4"),
    ("whisper", {"decoder_ffn_dim": 7}, "encoder_ffn_dim is 18 and decoder_ffn_dim 7"),
    ("whisper", {"activation_function": "relu"}, "activation_function is 'relu'"),
]
