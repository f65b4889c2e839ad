from __future__ import annotations

from typing import Any

from ..cases.llama import inputs
from ..cases.mistral import full_windows
from . import DECODER, Checkpoint
from .llama import CONFIG


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    # KerasHub rounds what it reads to float16.
    config = {**CONFIG, **others}
    return Checkpoint(
        name, architecture, "MistralBackbone", config, DECODER, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("mistral", "MistralForCausalLM", inputs(4, 9), rms_norm_eps=1e-3),
    checkpoint(
        "mistral-window",
        "MistralForCausalLM",
        full_windows(5, 13),
        sliding_window=4,
        head_dim=10,
        attention_dropout=0.2,
        rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 50.0},
    ),
    checkpoint(
        "mistral-tied",
        "MistralModel",
        inputs(4, 11),
        tie_word_embeddings=True,
        sliding_window=None,
        num_attention_heads=3,
        num_key_value_heads=1,
    ),
]
OLD = [
    (
        "mistral-window",
        {
            "rope_parameters": ...,
            "rope_theta": 50.0,
            "rope_scaling": {"type": "linear", "factor": 3.0},
        },
    ),
]
HEADS = [
    ("MistralForTokenClassification", CONFIG),
    ("MistralForQuestionAnswering", CONFIG),
]
REFUSED = [
    ("mistral", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
    ("mistral", {"num_key_value_heads": ...}, "num_key_value_heads missing"),
]
