from __future__ import annotations

from typing import Any

from ..cases.llama import inputs
from ..cases.mistral import full_windows
from . import DECODER, Checkpoint
from .llama import CONFIG


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    keras = others.pop("in_keras_hub", True)
    config = {**CONFIG, **others}
    return Checkpoint(
        name, architecture, "QwenBackbone", config, DECODER, inputs, in_keras_hub=keras
    )


CHECKPOINTS = [
    checkpoint(
        "qwen", "Qwen2ForCausalLM", inputs(4, 9), rms_norm_eps=1e-3, tie_word_embeddings=True
    ),
    checkpoint(
        "qwen-untied",
        "Qwen2ForCausalLM",
        inputs(5, 7),
        num_attention_heads=3,
        num_key_value_heads=1,
        hidden_size=26,
        attention_dropout=0.2,
        rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 50.0},
        in_keras_hub=False,  # it overlooks the scaling
    ),
    checkpoint(
        "qwen-window",
        "Qwen2Model",
        full_windows(4, 13),
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=0,
        in_keras_hub=False,  # it overlooks the window
    ),
    checkpoint(
        "qwen-unused-window",
        "Qwen2Model",
        inputs(1, 13),
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
        in_keras_hub=False,  # it wants a head or a tied one
    ),
]
OLD = [
    ("qwen", {"layer_types": ..., "rope_parameters": ..., "rope_theta": 10000.0}),
    ("qwen-window", {"layer_types": ...}),
    ("qwen-unused-window", {"layer_types": ...}),
]
HEADS = [("Qwen2ForTokenClassification", CONFIG)]
SOME = "only a window of all layers or of none"
REFUSED = [
    ("qwen-window", {"layer_types": None, "max_window_layers": 1}, SOME),
    ("qwen-window", {"layer_types": ["full_attention", "sliding_attention"]}, SOME),
    ("qwen", {"head_dim": 10}, "head_dim is 10"),
    ("qwen", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'"),
]
