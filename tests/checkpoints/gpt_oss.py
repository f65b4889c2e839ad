from __future__ import annotations

from typing import Any

from ..cases.llama import inputs
from . import DECODER, Checkpoint
from .llama import CONFIG

EXPERTS = {
    **CONFIG,
    "head_dim": 8,
    "intermediate_size": 10,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 4096,
    "truncate": False,
}


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    # KerasHub wants the experts in MXFP4.
    config = {**EXPERTS, **others}
    return Checkpoint(
        name, architecture, "GptOssBackbone", config, DECODER, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("gpt-oss", "GptOssForCausalLM", inputs(4, 9), rms_norm_eps=1e-3),
    checkpoint(
        "gpt-oss-window",
        "GptOssForCausalLM",
        inputs(5, 13),
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=1,
        num_experts_per_tok=3,
        sliding_window=4,
        attention_dropout=0.2,
        rope_parameters={**YARN, "rope_theta": 500.0},
    ),
    checkpoint(
        "gpt-oss-keras",
        "GptOssForCausalLM",
        inputs(5, 13),
        sliding_window=4,
        layer_types=["full_attention", "sliding_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    ),
    checkpoint("gpt-oss-full", "GptOssModel", inputs(1, 1), layer_types=["full_attention"] * 2),
]
OLD = [
    (
        "gpt-oss-window",
        {
            "rope_parameters": ...,
            "rope_theta": 500.0,
            "rope_scaling": YARN,
            "layer_types": ...,
            "swiglu_alpha": ...,
            "experts_per_token": 3,
            "initial_context_length": 4096,
        },
    ),
    ("gpt-oss", {"rope_parameters": ...}),
]
HEADS = [("GptOssForSequenceClassification", {**EXPERTS, "pad_token_id": 0})]
INEXPRESSIBLE = {"gpt-oss-odd": "heads have 7 dimensions"}
REFUSED = [
    ("gpt-oss", {"rope_parameters": {**YARN, "truncate": True}}, "truncate is True; only False"),
    ("gpt-oss", {"rope_parameters": {**YARN, "beta_fast": 16}}, "beta_fast is 16; only 32.0"),
    ("gpt-oss", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "lacks original_max"),
    ("gpt-oss", {"sliding_window": 1}, "sliding_window is 1; only 2 and more"),
    ("gpt-oss", {"layer_types": ["chunked_attention", "sliding_attention"]}, "layer_types must be"),
    ("gpt-oss", {"swiglu_limit": 5.0}, "swiglu_limit is 5.0"),
    ("gpt-oss", {"quantization_config": {"quant_method": "awq"}}, "quantized weights"),
]
