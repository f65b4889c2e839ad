from __future__ import annotations

from typing import Any

from ..cases.llama import inputs
from ..cases.mistral import full_windows
from . import DECODER, Checkpoint
from .llama import CONFIG

EXPERTS = {**CONFIG, "num_local_experts": 5}


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    keras = others.pop("in_keras_hub", True)
    config = {**EXPERTS, **others}
    return Checkpoint(
        name, architecture, "MixtralBackbone", config, DECODER, inputs, in_keras_hub=keras
    )


CHECKPOINTS = [
    checkpoint("mixtral", "MixtralForCausalLM", inputs(4, 9), rms_norm_eps=1e-3),
    checkpoint(
        "mixtral-window",
        "MixtralForCausalLM",
        full_windows(5, 13),
        num_local_experts=3,
        num_experts_per_tok=1,
        router_jitter_noise=0.1,
        router_aux_loss_coef=0.3,
        sliding_window=4,
        attention_dropout=0.2,
        rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 50.0},
        in_keras_hub=False,  # it overlooks the scaling
    ),
    checkpoint(
        "mixtral-bare",
        "MixtralModel",
        inputs(1, 1),
        num_attention_heads=3,
        num_key_value_heads=1,
        in_keras_hub=False,
    ),
]
OLD = [
    ("mixtral", {"rope_parameters": ..., "rope_theta": 1e6, "head_dim": ...}),
    ("mixtral", {"rope_parameters": ..., "num_local_experts": ..., "num_experts": 5}),
]
HEADS = [("MixtralForTokenClassification", EXPERTS)]
REFUSED = [
    ("mixtral", {"head_dim": 8}, "head_dim is 8; only 6"),
    ("mixtral", {"num_local_experts": ...}, "num_local_experts missing"),
    ("mixtral", {"num_experts": 7}, "num_local_experts and num_experts are 5 and 7"),
]
