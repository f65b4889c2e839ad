from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..cases.common import ids, padding
from . import ENCODER_DECODER, Checkpoint, Interface
from .gemma3 import GEMMA3, IMAGE, SCALED, VISION, VOCABULARY
from .gemma3 import with_images as decoder_with_images

T5_GEMMA2 = Interface(
    {**ENCODER_DECODER.inputs, "images": "pixel_values"},
    {
        **ENCODER_DECODER.outputs,
        # With windows, padding may see nothing but padding.
        "encoder_sequence_output": ("encoder_last_hidden_state", "encoder_padding_mask"),
    },
    forms=GEMMA3.forms,
)
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 18,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "query_pre_attn_scalar": 36,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": SCALED,
}
CONFIG = {
    "encoder": {
        "text_config": TEXT,
        "vision_config": {**VISION, "vision_use_head": False},
        "mm_tokens_per_image": 4,
        "eoi_token_index": 3,
    },
    "decoder": {**TEXT, "num_hidden_layers": 3, "num_key_value_heads": 1, "layer_types": None},
    "image_token_index": IMAGE,
    "eoi_token_index": 3,
    "dropout_rate": 0.1,
}


def with_images(batch: int, encoder_length: int, length: int) -> Callable[..., Any]:
    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        found = decoder_with_images(batch, encoder_length, 2, 4)(rng)
        del found["vision_mask"]
        return {
            "encoder_token_ids": found.pop("token_ids"),
            "encoder_padding_mask": found.pop("padding_mask"),
            "decoder_token_ids": ids(rng, batch, length, IMAGE),
            "decoder_padding_mask": padding(rng, batch, length),
            **found,
        }

    return make


CHECKPOINTS = [
    Checkpoint(
        "t5gemma2",
        "T5Gemma2ForConditionalGeneration",
        "T5Gemma2Backbone",
        CONFIG,
        T5_GEMMA2,
        with_images(4, 17, 7),
        in_keras_hub=False,  # it wants the names of an older version
    ),
    Checkpoint(
        "t5gemma2-bare",
        "T5Gemma2Model",
        "T5Gemma2Backbone",
        {**CONFIG, "attention_dropout": 0.2},
        T5_GEMMA2,
        with_images(2, 14, 5),
        in_keras_hub=False,
    ),
]
REFUSED = [
    (
        "t5gemma2",
        {"decoder": {**CONFIG["decoder"], "attn_logit_softcapping": 5.0}},
        "attn_logit_softcapping is 5.0",
    ),
]
HEADS = [("T5Gemma2ForSequenceClassification", CONFIG)]
INEXPRESSIBLE = {
    "t5-gemma2-images": "embeddings of the encoder and of the decoder differ",
    "t5-gemma2": "vision_encoder is None",
    "t5-gemma2-lopsided": "use_query_key_norm is False",
    "t5-gemma2-images-untied": "tie_word_embeddings is False",
}
