from __future__ import annotations

from typing import Any

from ..cases.t5 import inputs
from . import ENCODER_DECODER, Checkpoint, Interface

# Not `ENCODER_DECODER` itself, whose logits are scaled and come from the shared embedding.
T5_GEMMA = Interface(ENCODER_DECODER.inputs, ENCODER_DECODER.outputs)
ENCODER = {
    "vocab_size": 31,
    "hidden_size": 12,
    "intermediate_size": 18,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 6,
    "query_pre_attn_scalar": 4,
    "attn_logit_softcapping": 5.0,
    "sliding_window": 10_000,
}
DECODER = {
    **ENCODER,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "final_logit_softcapping": 3.0,
}


def checkpoint(name: str, architecture: str, batch: int, common: Any = None, **options: Any):
    in_keras_hub = options.pop("in_keras_hub", True)
    config = {
        "vocab_size": 31,
        "encoder": {**ENCODER, **(common or {})},
        "decoder": {**DECODER, **(common or {}), **options.pop("decoder", {})},
        **options,
    }
    return Checkpoint(
        name,
        architecture,
        "T5GemmaBackbone",
        config,
        T5_GEMMA,
        inputs(batch, 9, 7),
        in_keras_hub=in_keras_hub,
    )


CHECKPOINTS = [
    checkpoint("t5gemma", "T5GemmaForConditionalGeneration", 4, dropout_rate=0.1),
    # Its windows hold one key more in KerasHub.
    checkpoint(
        "t5gemma-window",
        "T5GemmaForConditionalGeneration",
        4,
        decoder={"sliding_window": 3},
        in_keras_hub=False,
    ),
    checkpoint(
        "t5gemma-bare",
        "T5GemmaModel",
        2,
        {
            "attention_bias": True,
            "attn_logit_softcapping": None,
            "hidden_activation": "silu",
            "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
            "rms_norm_eps": 1e-3,
        },
        decoder={"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
        in_keras_hub=False,  # it reads no biases
    ),
]
HEADS = [
    ("T5GemmaForSequenceClassification", CHECKPOINTS[0].config),
    ("T5GemmaForTokenClassification", CHECKPOINTS[0].config),
]
REFUSED = [
    (
        "t5gemma",
        {"encoder": {**ENCODER, "query_pre_attn_scalar": 5}},
        "query_pre_attn_scalar is 5 in the encoder and 4 in the decoder",
    ),
    (
        "t5gemma",
        {"decoder": {**DECODER, "rope_theta": 5.0}},
        "rope_theta is .* only one",
    ),
]
