from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..cases.common import ids
from . import Checkpoint, Interface

VOCABULARY = 41
TOKENS = 4  # of each image, in the cases, too


def text(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What stands before the text there, too, as tokens of images."""

    def behind(name: str, value: int) -> torch.Tensor:
        return F.pad(inputs[name].long(), (TOKENS, 0), value=value)

    return {
        "input_ids": behind("token_ids", VOCABULARY),
        "attention_mask": behind("padding_mask", 1),
        "token_type_ids": behind("response_mask", 0),
    }


def answered(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A prompt of one token, which no window narrows, and no padding, of which transformers makes
    something else in a response.
    """
    response = torch.ones_like(inputs["response_mask"])
    response[:, 0] = 0
    return {
        **inputs,
        "padding_mask": torch.ones_like(inputs["padding_mask"]),
        "response_mask": response,
    }


PALI_GEMMA = Interface(
    {"images": "pixel_values"},
    {"output": ("last_hidden_state", None)},
    adapt=answered,
    forms={"images": lambda images: images.permute(0, 3, 1, 2)},
    besides=text,
)


def draw(batch: int, length: int, size: int, prompt: int, padded: bool) -> Callable[..., Any]:
    """A prompt, with padding in it, then a response."""

    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        mask = np.ones((batch, length), "int32")
        if padded:
            mask[1:, :prompt] = rng.integers(0, 2, (batch - 1, prompt))
        response = np.zeros((batch, length), "int32")
        response[:, prompt:] = 1
        return {
            "images": rng.standard_normal((batch, size, size, 3)).astype("float32"),
            "token_ids": ids(rng, batch, length, VOCABULARY),
            "padding_mask": mask,
            "response_mask": response,
        }

    return make


VISION = {
    "model_type": "siglip_vision_model",
    "image_size": 8,
    "patch_size": 4,
    "num_attention_heads": 2,
    "hidden_size": 10,
    "num_hidden_layers": 2,
    "intermediate_size": 14,
    "vision_use_head": False,
}
TEXT = {
    "model_type": "gemma",
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "hidden_size": 24,
    "intermediate_size": 18,
    "head_dim": 4,
}
GEMMA2 = {
    **TEXT,
    "model_type": "gemma2",
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "query_pre_attn_scalar": 10,
    "sliding_window": 6,
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
}
CONFIG = {
    "text_config": TEXT,
    "vision_config": VISION,
    "image_token_index": VOCABULARY,
    "projection_dim": 24,
    "hidden_size": 24,
}


def checkpoint(name: str, architecture: str, config: Any, make: Any) -> Checkpoint:
    return Checkpoint(
        name,
        architecture,
        "PaliGemmaBackbone",
        config,
        PALI_GEMMA,
        make,
        in_keras_hub=False,  # it wants older names of weights, and takes all for Gemma 1
    )


CHECKPOINTS = [
    checkpoint("pali-gemma", "PaliGemmaForConditionalGeneration", CONFIG, draw(4, 7, 8, 4, True)),
    checkpoint(
        "pali-gemma2",
        "PaliGemmaForConditionalGeneration",
        {
            **CONFIG,
            "text_config": GEMMA2,
            "vision_config": {**VISION, "image_size": 13, "patch_size": 5},
        },
        draw(4, 11, 13, 2, False),
    ),
    checkpoint(
        "pali-gemma-bare",
        "PaliGemmaModel",
        {**CONFIG, "vision_config": {**VISION, "vision_use_head": True}},
        draw(1, 1, 8, 1, False),
    ),
]
INEXPRESSIBLE = {"pali-gemma-odd": "vit_classifier_activation is 'softmax'"}
REFUSED = [
    (
        "pali-gemma",
        {"text_config": {**TEXT, "model_type": "llama"}},
        "text_config.model_type is 'llama'; only gemma and gemma2",
    ),
    (
        "pali-gemma",
        {"vision_config": {**VISION, "model_type": "clip_vision_model"}},
        "vision_config.model_type is 'clip_vision_model'",
    ),
    (
        "pali-gemma2",
        {"text_config": {**GEMMA2, "layer_types": ["full_attention"] * 3}},
        "layer_types are not alternately",
    ),
]
