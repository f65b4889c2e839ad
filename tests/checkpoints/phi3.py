from __future__ import annotations

from typing import Any

from ..cases.llama import inputs
from . import DECODER, Checkpoint
from .llama import CONFIG

SMALL = {**CONFIG, "pad_token_id": 0, "eos_token_id": 2}
LONG = {
    "max_position_embeddings": 80,
    "original_max_position_embeddings": 10,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 500.0,
        "short_factor": [1.0, 1.1, 1.5],
        "long_factor": [1.0, 3.0, 7.5],
    },
}


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    config = {**SMALL, **others}
    return Checkpoint(
        name, architecture, "Phi3Backbone", config, DECODER, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("phi3", "Phi3ForCausalLM", inputs(4, 9), num_key_value_heads=None),
    checkpoint("phi3-short", "Phi3ForCausalLM", inputs(4, 10), **LONG, resid_pdrop=0.2),
    checkpoint("phi3-long", "Phi3ForCausalLM", inputs(4, 11), **LONG, rms_norm_eps=1e-3),
    checkpoint("phi3-tied", "Phi3Model", inputs(1, 1), **LONG, tie_word_embeddings=True),
]
SCALING = LONG["rope_parameters"]
OLD = [
    (
        "phi3-long",
        {
            "rope_parameters": ...,
            "rope_theta": 500.0,
            "rope_scaling": {
                "type": "su",
                "short_factor": [1.0, 1.1, 1.5],
                "long_factor": [1.0, 3.0, 7.5],
            },
            "sliding_window": 80,
        },
    ),
]
HEADS = [("Phi3ForTokenClassification", SMALL)]
REFUSED = [
    ("phi3", {"sliding_window": 2047}, "sliding_window is 2047, less than max_position_embed"),
    ("phi3", {"partial_rotary_factor": 0.75}, "partial_rotary_factor is 0.75"),
    ("phi3-long", {"rope_scaling": {"type": "yarn"}}, "rope_type is 'yarn'; only 'default' or"),
    ("phi3-long", {"rope_scaling": {"type": "su", "long_factor": [1]}}, "lacks short_factor"),
    (
        "phi3-long",
        {"original_max_position_embeddings": 20},
        "original_max_position_embeddings is 1",
    ),
    ("phi3-long", {"rope_scaling": {**SCALING, "factor": 4.0}}, "factor is 4.0; only 8.0"),
    ("phi3-long", {"rope_scaling": {**SCALING, "attention_factor": 1.0}}, "attention_factor is 1"),
]
