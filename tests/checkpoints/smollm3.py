from __future__ import annotations

from typing import Any

from ..cases.llama import inputs
from . import DECODER, Checkpoint
from .llama import CONFIG

SMALL = {**CONFIG, "pad_token_id": 0}


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    keras = others.pop("in_keras_hub", True)
    config = {**SMALL, **others}
    return Checkpoint(
        name, architecture, "SmolLM3Backbone", config, DECODER, inputs, in_keras_hub=keras
    )


CHECKPOINTS = [
    checkpoint("smollm3", "SmolLM3ForCausalLM", inputs(4, 9), no_rope_layer_interval=2),
    checkpoint(
        "smollm3-biases",
        "SmolLM3ForCausalLM",
        inputs(5, 13),
        num_hidden_layers=3,
        num_key_value_heads=None,
        no_rope_layers=[0, 1, 0],
        mlp_bias=True,
        attention_dropout=0.2,
        rms_norm_eps=1e-3,
        rope_parameters={"rope_theta": 300.0, "rope_type": "default"},
        in_keras_hub=False,  # it has no rule for the biases
    ),
    checkpoint(
        "smollm3-bare",
        "SmolLM3Model",
        inputs(1, 1),
        num_hidden_layers=4,
        in_keras_hub=False,
    ),
]
OLD = [
    (
        "smollm3",
        {"rope_parameters": ..., "rope_theta": 2e6, "no_rope_layers": ..., "layer_types": ...},
    ),
]
HEADS = [("SmolLM3ForTokenClassification", SMALL)]
INEXPRESSIBLE = {"smollm3-biases": "attention_bias is True; only False"}
REFUSED = [
    ("smollm3", {"attention_bias": True}, "attention_bias is True"),
    ("smollm3", {"layer_types": ["sliding_attention"] * 2}, "some layers have a sliding_window"),
    (
        "smollm3",
        {"layer_types": ..., "use_sliding_window": True, "sliding_window": 4},
        "some layers have a sliding_window",
    ),
    ("smollm3", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
    ("smollm3", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
]
