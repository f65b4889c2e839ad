from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..cases.moonshine import inputs
from . import Checkpoint, Interface

CONFIG = {
    "vocab_size": 31,
    "hidden_size": 12,
    "intermediate_size": 24,
    "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 3,
    "encoder_num_attention_heads": 3,
    "decoder_num_attention_heads": 3,
    "max_position_embeddings": 19,
    "attention_dropout": 0.2,
    "decoder_start_token_id": 1,
}


def whole(inputs: dict[str, Any]) -> dict[str, Any]:
    """Audio without padding: of what is padded, transformers keeps one frame more."""
    mask = inputs["encoder_padding_mask"]
    full = torch.ones_like(mask) if isinstance(mask, torch.Tensor) else np.ones_like(mask)
    return {**inputs, "encoder_padding_mask": full}


INTERFACE = Interface(
    {
        "encoder_input_values": "input_values",
        "encoder_padding_mask": "attention_mask",
        "decoder_token_ids": "decoder_input_ids",
        "decoder_padding_mask": "decoder_attention_mask",
    },
    {
        "encoder_sequence_output": ("encoder_last_hidden_state", None),
        "decoder_sequence_output": ("last_hidden_state", "decoder_padding_mask"),
    },
    adapt=whole,
    forms={"encoder_input_values": lambda audio: audio[..., 0]},
)


def checkpoint(name: str, architecture: str, batch: int, length: int, **others: Any) -> Checkpoint:
    return Checkpoint(
        name,
        architecture,
        "MoonshineBackbone",
        {**CONFIG, **others},
        INTERFACE,
        lambda rng: whole(inputs(batch, 2100, length)(rng)),
        in_keras_hub=False,
    )


CHECKPOINTS = [
    checkpoint("moonshine", "MoonshineModel", 4, 6, partial_rotary_factor=0.62),
    checkpoint(
        "moonshine-generation",
        "MoonshineForConditionalGeneration",
        1,
        11,
        pad_head_dim_to_multiple_of=8,
        head_dim=7,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 500.0,
            "partial_rotary_factor": 0.6,
        },
    ),
]
INEXPRESSIBLE = {
    "moonshine-options": "3 heads in the encoder and 2 in the decoder differ; "
    "partial_rotary_factor 0.9 gives 9 dimensions, an odd number; attention_bias is True",
}
REFUSED = [
    ("moonshine", {"attention_bias": True}, "attention_bias is True; only False"),
    (
        "moonshine",
        {"decoder_num_attention_heads": 2},
        "3 heads in the encoder and 2 in the decoder",
    ),
    ("moonshine", {"decoder_num_key_value_heads": 1}, "keys and values have 3 and 1 heads, not 3"),
    ("moonshine", {"encoder_hidden_act": "relu"}, "encoder_hidden_act is 'relu'"),
    ("moonshine", {"intermediate_size": 25}, "25 is no multiple of hidden_size 12"),
    ("moonshine", {"head_dim": 3}, "head_dim is 3, less than 4"),
    ("moonshine", {"head_dim": 5, "rope_parameters": {"partial_rotary_factor": 0.62}}, "odd"),
    ("moonshine", {"rope_parameters": {"rope_type": "linear"}}, "rope_type is 'linear'"),
]
