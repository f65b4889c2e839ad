from __future__ import annotations

from typing import Any

from ..cases.common import ids, padding
from ..oracle import Case

SMALL = {
    "vocabulary_size": 37,
    "hidden_dim": 12,
    "intermediate_dim": 7,
    "num_layers": 3,
    "num_heads": 3,
    "local_attention_window": 3,
    "global_attn_every_n_layers": 2,
}


def inputs(batch: int, length: int) -> Any:
    return lambda rng: {
        "token_ids": ids(rng, batch, length, 37),
        "padding_mask": padding(rng, batch, length),
    }


CASES = [
    Case("modern-bert", "ModernBertBackbone", SMALL, inputs(5, 9)),
    Case(
        "modern-bert-options",
        "ModernBertBackbone",
        {
            **SMALL,
            "num_layers": 4,
            "num_heads": 1,
            "hidden_dim": 10,
            "local_attention_window": 4,
            "global_attn_every_n_layers": 3,
            "rotary_max_wavelength": 50,
            "local_rotary_max_wavelength": None,
            "layer_norm_epsilon": 1e-2,
            "trainable": False,
            "name": "mine",
        },
        inputs(6, 13),
    ),
]

PRESETS = {
    "modern_bert_base_en": {},
    "modern_bert_large_en": {
        "hidden_dim": 1024,
        "intermediate_dim": 2624,
        "num_layers": 28,
        "num_heads": 16,
    },
}
