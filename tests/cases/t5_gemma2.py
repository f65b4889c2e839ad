from __future__ import annotations

from typing import Any

from ..oracle import Case
from .common import ids, padding
from .gemma3 import images, vision_encoder
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
    "query_pre_attn_scalar": 16,
    "sliding_window": 4,
    "global_rope_scaling_factor": 8.0,
}


def with_images(
    batch: int, encoder_length: int, length: int, count: int, size: int, tokens: int
) -> Any:
    def make(rng: Any) -> dict[str, Any]:
        pictures = images(rng, batch, encoder_length, count, size, tokens)
        del pictures["vision_mask"]
        return {
            "encoder_token_ids": ids(rng, batch, encoder_length, 31),
            "encoder_padding_mask": padding(rng, batch, encoder_length),
            "decoder_token_ids": ids(rng, batch, length, 31),
            "decoder_padding_mask": padding(rng, batch, length),
            **pictures,
        }

    return make


CASES = [
    Case(
        "t5-gemma2-images",
        "T5Gemma2Backbone",
        {
            **SMALL,
            "eoi_token_index": 3,
            "vision_encoder": vision_encoder(8, output_dim=12),
        },
        with_images(6, 15, 7, 4, 8, 1),
    ),
    # Narrower ones amplify, with adapters, what rounds beyond the limits.
    Case(
        "t5-gemma2",
        "T5Gemma2Backbone",
        {**SMALL, "encoder_hidden_dim": 16, "decoder_hidden_dim": 16},
        inputs(6, 9, 7),
    ),
    Case(
        "t5-gemma2-lopsided",
        "T5Gemma2Backbone",
        {
            **SMALL,
            "encoder_num_layers": 1,
            "encoder_num_attention_heads": 3,
            "encoder_num_key_value_heads": 3,
            "encoder_layer_types": ["sliding_attention"],
            "decoder_num_layers": 3,
            "decoder_num_attention_heads": 1,
            "decoder_num_key_value_heads": 1,
            "decoder_head_dim": 10,
            "decoder_layer_types": ["full_attention"] * 2 + ["sliding_attention"],
            "attn_logit_softcapping": 5.0,
            "dropout_rate": 0.2,
            "attention_dropout": 0.1,
            "rms_norm_eps": 1e-2,
            "rope_max_wavelength": 50.0,
            "encoder_rope_max_wavelength": 20.0,
            "encoder_global_rope_scaling_factor": 2.0,
            "use_query_key_norm": False,
            "query_pre_attn_scalar": 2500.0,
            "sliding_window": 3,
        },
        inputs(6, 5, 11),
    ),
    Case(
        "t5-gemma2-images-untied",
        "T5Gemma2Backbone",
        {
            **SMALL,
            "encoder_num_layers": 4,
            "encoder_layer_types": ["full_attention"] * 4,
            "decoder_layer_types": ["full_attention"] * 2,
            "sliding_window": None,
            "attention_bias": True,
            "hidden_activation": "silu",
            "tie_word_embeddings": False,
            "initializer_range": 0.1,
            "final_logit_softcapping": 3.0,
            "vision_encoder": vision_encoder(13, patch_size=3, output_dim=12, num_layers=2),
            "eoi_token_index": 1,
        },
        with_images(2, 17, 1, 2, 13, 4),
    ),
]
