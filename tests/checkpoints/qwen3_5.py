from __future__ import annotations

from typing import Any

from ..cases.llama import inputs
from . import DECODER, Checkpoint

TEXT = {
    "vocab_size": 41,
    "hidden_size": 12,
    "intermediate_size": 18,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 5,
    "layer_types": ["linear_attention", "full_attention"],
}
EXPERTS = {
    **{name: value for name, value in TEXT.items() if name != "intermediate_size"},
    "moe_intermediate_size": 10,
    "shared_expert_intermediate_size": 14,
    "num_experts": 5,
    "num_experts_per_tok": 2,
}


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    # KerasHub reads no checkpoints of the text model alone.
    moe = "Moe" in architecture
    return Checkpoint(
        name,
        architecture,
        "Qwen3_5MoeBackbone" if moe else "Qwen3_5Backbone",
        {**(EXPERTS if moe else TEXT), **others},
        DECODER,
        inputs,
        in_keras_hub=False,
    )


ODD = {
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "layer_types": ["full_attention", "linear_attention"],
    "linear_num_key_heads": 1,
    "linear_conv_kernel_dim": 2,
    "tie_word_embeddings": True,
    "attention_dropout": 0.2,
    "rope_parameters": {
        "rope_type": "linear",
        "factor": 3.0,
        "rope_theta": 50.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [1, 1, 0],
        "mrope_interleaved": True,
    },
}
CHECKPOINTS = [
    checkpoint("qwen3.5", "Qwen3_5ForCausalLM", inputs(4, 9)),
    checkpoint("qwen3.5-odd", "Qwen3_5ForCausalLM", inputs(3, 13), **ODD),
    checkpoint("qwen3.5-bare", "Qwen3_5TextModel", inputs(1, 1)),
    checkpoint("qwen3.5-moe", "Qwen3_5MoeForCausalLM", inputs(4, 9)),
    checkpoint("qwen3.5-moe-odd", "Qwen3_5MoeForCausalLM", inputs(3, 13), **ODD),
    checkpoint("qwen3.5-moe-bare", "Qwen3_5MoeTextModel", inputs(1, 1)),
]
OLD = [
    (
        "qwen3.5",
        {"rope_parameters": ..., "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    ),
    ("qwen3.5", {"layer_types": ..., "full_attention_interval": 2}),
    ("qwen3.5-moe", {"num_experts": ..., "num_local_experts": 5}),
]
INEXPRESSIBLE = {
    "qwen3.5-images": "vision_encoder is",
    "qwen3.5-videos": "vision_encoder is",
    "qwen3.5-moe-images": "vision_encoder is",
}
REFUSED = [
    ("qwen3.5", {"attention_bias": True}, "attention_bias is True"),
    ("qwen3.5", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
]
