from __future__ import annotations

from typing import Any

from ..cases.llama import inputs
from ..cases.mistral import full_windows
from . import DECODER, Checkpoint
from .llama import CONFIG

CONFIG3 = {**CONFIG, "head_dim": 8, "rms_norm_eps": 1e-5}


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    keras = others.pop("in_keras_hub", True)
    config = {**CONFIG3, **others}
    return Checkpoint(
        name, architecture, "Qwen3Backbone", config, DECODER, inputs, in_keras_hub=keras
    )


CHECKPOINTS = [
    checkpoint("qwen3", "Qwen3ForCausalLM", inputs(4, 9), tie_word_embeddings=True),
    checkpoint(
        "qwen3-untied",
        "Qwen3ForCausalLM",
        inputs(5, 7),
        num_attention_heads=3,
        num_key_value_heads=1,
        attention_dropout=0.2,
        rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 50.0},
        in_keras_hub=False,  # it overlooks the scaling
    ),
    checkpoint(
        "qwen3-window",
        "Qwen3Model",
        full_windows(4, 13),
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=0,
        in_keras_hub=False,  # its torch backend drops the window
    ),
]
OLD = [("qwen3-window", {"layer_types": ..., "rope_parameters": ..., "rope_theta": 10000})]
HEADS = [("Qwen3ForSequenceClassification", {**CONFIG3, "pad_token_id": 0})]
INEXPRESSIBLE = {"qwen3-odd": "rms_norm_eps is 0.01, but the norms on queries and keys"}
REFUSED = [
    ("qwen3", {"rms_norm_eps": 1e-3}, "rms_norm_eps is 0.001, but the norms on queries and keys"),
    ("qwen3", {"attention_bias": True}, "attention_bias is True"),
    ("qwen3-window", {"layer_types": None, "max_window_layers": 1}, "of all layers or of none"),
]
