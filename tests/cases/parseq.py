from __future__ import annotations

from typing import Any

import numpy as np

from ..oracle import Case
from . import vit
from .common import ids, padding


def image_encoder(**config: Any) -> dict[str, Any]:
    return {
        "module": "keras_hub.src.models.vit.vit_backbone",
        "class_name": "ViTBackbone",
        "config": {**config, "name": "vi_t_backbone"},
        "registered_name": "keras_hub>ViTBackbone",
    }


def config(encoder: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {
        "image_encoder": image_encoder(**encoder),
        "vocabulary_size": 19,
        "max_label_length": 18,
        "decoder_hidden_dim": 12,
        "num_decoder_layers": 1,
        "num_decoder_heads": 3,
        "decoder_mlp_dim": 14,
        **others,
    }


def inputs(batch: int, length: int, *image_shape: int) -> Any:
    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {
            "images": vit.images(batch, *image_shape)(rng),
            "token_ids": ids(rng, batch, length, 19),
            "padding_mask": padding(rng, batch, length),
        }

    return make


PRESETS = {
    "parseq": {
        "image_encoder": image_encoder(
            image_shape=[32, 128, 3],
            patch_size=[4, 8],
            num_layers=12,
            num_heads=6,
            hidden_dim=384,
            mlp_dim=4 * 384,
            use_class_token=False,
        ),
        "vocabulary_size": 97,
        "max_label_length": 25,
        "decoder_hidden_dim": 384,
        "num_decoder_layers": 1,
        "num_decoder_heads": 12,
        "decoder_mlp_dim": 4 * 384,
    }
}
CASES = [
    Case(
        "parseq",
        "PARSeqBackbone",
        config(vit.config(8, 12, 3, use_class_token=False), num_decoder_layers=2),
        inputs(6, 9, 8, 12, 3),
    ),
    Case(
        "parseq-longest",
        "PARSeqBackbone",
        config(
            vit.config(8, 4, 1, num_layers=1, hidden_dim=14, num_heads=2),
            decoder_hidden_dim=14,
            num_decoder_heads=4,
            dropout_rate=0.2,
            attention_dropout=0.0,
            max_label_length=11,
        ),
        inputs(5, 12, 8, 4, 1),
    ),
    Case(
        "parseq-one-token",
        "PARSeqBackbone",
        config(vit.config(8, 4, 5, num_layers=1, use_patch_bias=False)),
        inputs(3, 1, 8, 4, 5),
    ),
]
