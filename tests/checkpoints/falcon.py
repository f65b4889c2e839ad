from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..cases.gemma import inputs
from . import DECODER, Checkpoint

# All numbers of heads here have slopes that are powers of two; others are rounded in transformers.
CONFIG = {
    "vocab_size": 41,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 24,
    "ffn_hidden_size": 36,
    "alibi": True,
    "bias": True,
    "multi_query": False,
    "parallel_attn": False,
}

# The eager implementation adds the linear biases twice.
INTERFACE = replace(DECODER, attention="sdpa")


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    config = {**CONFIG, **others}
    return Checkpoint(
        name, architecture, "FalconBackbone", config, INTERFACE, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("falcon", "FalconForCausalLM", inputs(5, 9)),
    checkpoint(
        "falcon-heads",
        "FalconModel",
        inputs(6, 13),
        num_attention_heads=6,
        hidden_dropout=0.3,
        attention_dropout=0.2,
        ffn_hidden_size=None,
    ),
    checkpoint("falcon-one", "FalconForSequenceClassification", inputs(1, 1)),
]
OLD = [
    (
        "falcon",
        {
            "num_kv_heads": ...,
            "n_head": 4,
            "n_layer": 2,
            "rope_parameters": ...,
            "apply_residual_connection_post_layernorm": False,
        },
    ),
    ("falcon-heads", {"ffn_hidden_size": ...}),
]
INEXPRESSIBLE = {"falcon-odd": "layer_norm_epsilon is 0.01; only 1e-05"}
HEADS = [("FalconForTokenClassification", CONFIG), ("FalconForQuestionAnswering", CONFIG)]
REFUSED = [
    ("falcon", {"alibi": False}, "alibi is False; only True"),
    ("falcon", {"alibi": ...}, "alibi is False; only True"),
    ("falcon", {"bias": False}, "bias is False; only True"),
    ("falcon", {"multi_query": ...}, "multi_query is True; only False"),
    ("falcon", {"parallel_attn": True}, "parallel_attn is True; only False"),
    ("falcon", {"new_decoder_architecture": True}, "new_decoder_architecture is True"),
    ("falcon", {"num_kv_heads": 2}, "num_kv_heads is 2; only one for each head"),
    ("falcon", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06; only 1e-05"),
    ("falcon", {"activation": "relu"}, "activation is 'relu'"),
]
