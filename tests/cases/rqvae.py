from __future__ import annotations

from typing import Any

from ..oracle import Case


def vectors(batch: int, size: int) -> Any:
    return lambda rng: rng.standard_normal((batch, size)).astype("float32")


CASES = [
    Case(
        "rqvae",
        "RQVAEBackbone",
        {
            "input_dim": 7,
            "encoder_layer_dims": [9, 5],
            "output_dim": 4,
            "decoder_layer_dims": [6],
            "num_embeddings": 5,
            "num_quantizers": 3,
        },
        vectors(6, 7),
        mixed=False,
    ),
    Case(
        "rqvae-linear",
        "RQVAEBackbone",
        {
            "input_dim": 3,
            "encoder_layer_dims": [],
            "output_dim": 2,
            "decoder_layer_dims": [],
            "num_embeddings": 4,
            "num_quantizers": 1,
            "decay": 0.5,
            "data_variance": 2.0,
            "commitment_cost": 0.1,
        },
        vectors(1, 3),
        mixed=False,
    ),
]
