from __future__ import annotations

from ..oracle import Case
from .t5 import inputs

SMALL = {
    "vocabulary_size": 31,
    "encoder_hidden_dim": 12,
    "encoder_intermediate_dim": 18,
    "encoder_num_layers": 2,
    "encoder_num_attention_heads": 2,
    "encoder_num_key_value_heads": 1,
    "encoder_head_dim": 6,
    "encoder_layer_types": ["sliding_attention", "full_attention"],
    "decoder_hidden_dim": 12,
    "decoder_intermediate_dim": 14,
    "decoder_num_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_num_key_value_heads": 2,
    "decoder_head_dim": 4,
    "decoder_layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 144,
    "sliding_window": 3,
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
}
CASES = [
    Case("t5-gemma", "T5GemmaBackbone", SMALL, inputs(6, 9, 7)),
    # The sides differ in width, heads and depth.
    Case(
        "t5-gemma-lopsided",
        "T5GemmaBackbone",
        {
            **SMALL,
            "encoder_num_layers": 1,
            "encoder_hidden_dim": 15,
            "encoder_num_attention_heads": 3,
            "encoder_num_key_value_heads": 3,
            "encoder_layer_types": ["full_attention", "sliding_attention"],
            "decoder_num_layers": 3,
            "decoder_num_attention_heads": 1,
            "decoder_num_key_value_heads": 1,
            "decoder_head_dim": 10,
            "decoder_layer_types": ["full_attention"] * 2 + ["sliding_attention"],
            "attn_logit_softcapping": None,
            "dropout_rate": 0.2,
            "attention_dropout": 0.1,
            "rms_norm_eps": 1e-2,
            "rope_max_wavelength": 50.0,
            "sliding_window": 1,
            "query_pre_attn_scalar": 2500.0,
        },
        inputs(6, 5, 11),
    ),
    Case(
        "t5-gemma-untied",
        "T5GemmaBackbone",
        {
            **SMALL,
            "encoder_layer_types": ["full_attention"] * 2,
            "decoder_layer_types": ["full_attention"] * 2,
            "sliding_window": None,
            "attention_bias": True,
            "hidden_activation": "silu",
            "tie_word_embeddings": False,
            "initializer_range": 0.1,
            "cross_attention_hidden_size": 7,
            "query_pre_attn_scalar": 1.0,
        },
        inputs(1, 1, 1),
    ),
]
