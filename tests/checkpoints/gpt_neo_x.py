from __future__ import annotations

from typing import Any

from ..cases.llama import inputs
from . import DECODER, Checkpoint

CONFIG = {
    "vocab_size": 41,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 24,
    "intermediate_size": 36,
    "hidden_act": "gelu_fast",
    "tie_word_embeddings": True,
}


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    config = {**CONFIG, **others}
    return Checkpoint(
        name, architecture, "GPTNeoXBackbone", config, DECODER, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("gpt-neo-x", "GPTNeoXForCausalLM", inputs(5, 9), layer_norm_eps=1e-3),
    checkpoint(
        "gpt-neo-x-half",
        "GPTNeoXModel",
        inputs(5, 13),
        hidden_dropout=0.2,
        rope_parameters={
            "rope_type": "default",
            "partial_rotary_factor": 0.5,
            "rope_theta": 50.0,
        },
    ),
    checkpoint("gpt-neo-x-one", "GPTNeoXForTokenClassification", inputs(1, 1)),
]
OLD = [
    ("gpt-neo-x-half", {"rope_parameters": ..., "rotary_pct": 0.5, "rotary_emb_base": 50}),
    ("gpt-neo-x", {"rope_parameters": ..., "rope_scaling": None}),
]
# The head, which is not the embedding, is dropped.
HEADS = [
    ("GPTNeoXForCausalLM", {**CONFIG, "tie_word_embeddings": False}),
    ("GPTNeoXForSequenceClassification", {**CONFIG, "pad_token_id": 0}),
    ("GPTNeoXForQuestionAnswering", CONFIG),
]
REFUSED = [
    ("gpt-neo-x", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'gelu_new'"),
    ("gpt-neo-x", {"hidden_act": ...}, "hidden_act is 'gelu'"),
    ("gpt-neo-x", {"use_parallel_residual": False}, "use_parallel_residual is False"),
    ("gpt-neo-x", {"attention_bias": False}, "attention_bias is False"),
    ("gpt-neo-x", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
]
