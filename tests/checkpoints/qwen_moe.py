from __future__ import annotations

from typing import Any

from ..cases.llama import inputs
from ..cases.mistral import full_windows
from . import DECODER, Checkpoint
from .llama import CONFIG

EXPERTS = {
    **CONFIG,
    "moe_intermediate_size": 10,
    "shared_expert_intermediate_size": 14,
    "num_experts": 5,
    "num_experts_per_tok": 2,
}


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    keras = others.pop("in_keras_hub", True)
    config = {**EXPERTS, **others}
    return Checkpoint(
        name, architecture, "QwenMoeBackbone", config, DECODER, inputs, in_keras_hub=keras
    )


CHECKPOINTS = [
    checkpoint("qwen2-moe", "Qwen2MoeForCausalLM", inputs(4, 9), rms_norm_eps=1e-3),
    checkpoint(
        "qwen2-moe-window",
        "Qwen2MoeForCausalLM",
        full_windows(5, 13),
        num_attention_heads=3,
        num_key_value_heads=1,
        norm_topk_prob=True,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=4,
        layer_types=["sliding_attention"] * 2,
        attention_dropout=0.2,
        router_aux_loss_coef=0.3,
        rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 50.0},
        in_keras_hub=False,  # it overlooks window and scaling
    ),
    checkpoint(
        "qwen2-moe-dense",
        "Qwen2MoeModel",
        inputs(1, 7),
        mlp_only_layers=[0, 1],
        in_keras_hub=False,  # it wants a head
    ),
    checkpoint(
        "qwen2-moe-step",
        "Qwen2MoeModel",
        inputs(2, 5),
        decoder_sparse_step=3,
        in_keras_hub=False,
    ),
]
OLD = [
    (
        "qwen2-moe",
        {"rope_parameters": ..., "rope_theta": 10000.0, "layer_types": ..., "mlp_only_layers": ...},
    ),
]
HEADS = [("Qwen2MoeForTokenClassification", EXPERTS)]
SOME = "only all layers or none can have them"
REFUSED = [
    ("qwen2-moe", {"mlp_only_layers": [1]}, SOME),
    ("qwen2-moe", {"decoder_sparse_step": 2}, SOME),
    ("qwen2-moe-window", {"layer_types": ...}, "only a window of all layers or of none"),
    ("qwen2-moe", {"qkv_bias": False}, "qkv_bias is False"),
]
