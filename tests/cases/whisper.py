from __future__ import annotations

from typing import Any

from ..oracle import Case
from .common import ids, padding


def inputs(batch: int, encoder_length: int, length: int, mels: int = 7) -> Any:
    return lambda rng: {
        "encoder_features": rng.standard_normal((batch, encoder_length, mels), dtype="float32"),
        "decoder_token_ids": ids(rng, batch, length, 31),
        "decoder_padding_mask": padding(rng, batch, length),
    }


SMALL = {
    "vocabulary_size": 31,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 18,
    "num_mels": 7,
    "max_encoder_sequence_length": 38,
    "max_decoder_sequence_length": 19,
}
CASES = [
    Case("whisper", "WhisperBackbone", SMALL, inputs(5, 13, 6)),
    # Deep enough for the decoder's embeddings to come between the encoder's layers.
    Case(
        "whisper-deep",
        "WhisperBackbone",
        {**SMALL, "num_layers": 3, "num_heads": 3, "hidden_dim": 10, "dropout": 0.3},
        inputs(5, 38, 19),
    ),
    Case(
        "whisper-odd",
        "WhisperBackbone",
        {**SMALL, "num_layers": 1, "num_heads": 1, "hidden_dim": 7, "num_mels": 1},
        inputs(1, 1, 1, 1),
    ),
]
