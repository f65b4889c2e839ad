from __future__ import annotations

from ..oracle import Case
from .gemma import inputs

SMALL = {
    "hidden_size": 24,
    "head_size": 8,
    "num_layers": 2,
    "vocabulary_size": 41,
    "intermediate_dim": 36,
    "gate_lora": 6,
    "mv_lora": 3,
    "aaa_lora": 5,
    "decay_lora": 4,
}
CASES = [
    Case("rwkv7", "RWKV7Backbone", SMALL, inputs(5, 9)),
    Case("rwkv7-long", "RWKV7Backbone", {**SMALL, "num_layers": 3}, inputs(6, 37)),
    Case(
        "rwkv7-chunks",
        "RWKV7Backbone",
        {**SMALL, "head_size": 24, "dropout_rate": 0.2},
        inputs(2, 32),
    ),
    Case(
        "rwkv7-odd",
        "RWKV7Backbone",
        {**SMALL, "hidden_size": 15, "head_size": 3, "num_layers": 1, "mv_lora": 1},
        inputs(1, 1),
    ),
]
