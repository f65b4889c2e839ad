from __future__ import annotations

from typing import Any

from ..cases.llama import inputs
from . import DECODER, Checkpoint

CONFIG = {
    "vocab_size": 41,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 24,
    "intermediate_size": 18,
}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    keras = others.pop("in_keras_hub", True)
    config = {**CONFIG, **others}
    return Checkpoint(
        name, architecture, "Llama3Backbone", config, DECODER, inputs, in_keras_hub=keras
    )


CHECKPOINTS = [
    checkpoint("llama", "LlamaForCausalLM", inputs(4, 9)),
    checkpoint(
        "llama-tied",
        "LlamaForCausalLM",
        inputs(5, 13),
        tie_word_embeddings=True,
        num_key_value_heads=None,
        attention_dropout=0.2,
        rope_parameters={"rope_theta": 300.0, "rope_type": "default"},
    ),
    checkpoint(
        "llama-stretched",
        "LlamaForCausalLM",
        inputs(4, 40),
        rope_parameters=STRETCHED,
        rms_norm_eps=1e-2,
        in_keras_hub=False,  # it overlooks both
    ),
    checkpoint("llama-bare", "LlamaModel", inputs(1, 1), in_keras_hub=False),
]
# What older versions write.
OLD_ROPE = {name: value for name, value in STRETCHED.items() if name != "rope_theta"}
OLD = [
    (
        "llama-stretched",
        {"rope_parameters": ..., "rope_theta": 500.0, "rope_scaling": OLD_ROPE},
    ),
    ("llama", {"rope_parameters": ..., "rope_theta": 10000.0, "rope_scaling": None}),
    ("llama", {"rope_parameters": ..., "head_dim": ..., "attention_bias": ..., "mlp_bias": ...}),
]
INEXPRESSIBLE = {"llama-odd": "hidden_dim 26 is not divisible by num_query_heads 3"}
HEADS = [
    ("LlamaForSequenceClassification", {**CONFIG, "pad_token_id": 0}),
    ("LlamaForTokenClassification", CONFIG),
]
REFUSED = [
    ("llama", {"head_dim": 8}, "head_dim is 8; only 6"),
    ("llama", {"attention_bias": True}, "attention_bias is True"),
    ("llama", {"mlp_bias": True}, "mlp_bias is True"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'; only"),
    ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "'yarn'; only 'default' or 'llama3'"),
    ("llama", {"rope_parameters": 7}, "is 7, not an object"),
    (
        "llama",
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "attention_factor": 2.0}},
        "lacks low_freq_factor, .* has attention_factor, which is not known",
    ),
    ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is not"),
    ("llama", {"num_attention_heads": 0}, "num_attention_heads: .*zero|zero"),
]
