from __future__ import annotations

from typing import Any

from ..cases.llama import inputs
from ..cases.mistral import full_windows
from . import DECODER, Checkpoint
from .llama import CONFIG

EXPERTS = {
    **CONFIG,
    "head_dim": 8,
    "moe_intermediate_size": 10,
    "num_experts": 5,
    "num_experts_per_tok": 2,
}


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    # KerasHub wants `num_experts`, which transformers 5 does not write.
    config = {**EXPERTS, **others}
    return Checkpoint(
        name, architecture, "Qwen3MoeBackbone", config, DECODER, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("qwen3-moe", "Qwen3MoeForCausalLM", inputs(4, 9)),
    checkpoint(
        "qwen3-moe-mixed",
        "Qwen3MoeForCausalLM",
        full_windows(5, 13),
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=1,
        decoder_sparse_step=2,
        mlp_only_layers=[1],
        norm_topk_prob=True,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=4,
        attention_dropout=0.2,
        router_aux_loss_coef=0.3,
        rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 50.0},
    ),
    checkpoint("qwen3-moe-bare", "Qwen3MoeModel", inputs(1, 1)),
]
OLD = [
    (
        "qwen3-moe",
        {
            "rope_parameters": ...,
            "rope_theta": 10000.0,
            "num_local_experts": ...,
            "num_experts": 5,
            "max_window_layers": 48,
        },
    ),
    ("qwen3-moe", {"mlp_only_layers": ...}),
]
HEADS = [("Qwen3MoeForSequenceClassification", {**EXPERTS, "pad_token_id": 0})]
INEXPRESSIBLE = {"qwen3-moe-odd": "rms_norm_eps is 0.01, but the norms on queries and keys"}
REFUSED = [
    ("qwen3-moe", {"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05, but the norms"),
    ("qwen3-moe", {"attention_bias": True}, "attention_bias is True"),
]
