from __future__ import annotations

from typing import Any

from ..oracle import Case
from .vit import images


def config(**others: Any) -> dict[str, Any]:
    return {
        "encoder_num_filters": [32, 64],
        "encoder_num_blocks": [1, 1],
        "decoder_num_filters": [64, 32],
        "decoder_num_blocks": [1, 2],
        "sampler_method": "mode",
        **others,
    }


CASES = [
    Case(
        "vae",
        "VAEBackbone",
        config(sample_channels=6),
        images(2, 12, 8, 3),
        training_dtype="float64",
    ),
    Case(
        "vae-others",
        "VAEBackbone",
        config(
            encoder_num_filters=[32, 32, 64],
            encoder_num_blocks=[0, 2, 1],
            decoder_num_filters=[32, 64],
            decoder_num_blocks=[0, 0],
            input_channels=1,
            sample_channels=2,
            output_channels=5,
            scale=0.5,
            shift=0.0,
        ),
        images(1, 13, 19, 1),
    ),
]
