from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..cases.common import ids, padding
from ..cases.gemma import inputs
from . import DECODER, Checkpoint, Interface

VOCABULARY = 41
IMAGE = VOCABULARY - 1


def together(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All rows with the images of the first, for transformers finds them by their tokens."""
    if "images" not in given:
        return given
    rows = len(given["token_ids"])
    places = {name: given[name][:1].repeat(rows, 1) for name in ("vision_indices", "vision_mask")}
    tokens = given["token_ids"] % IMAGE
    return {**given, **places, "token_ids": tokens.masked_fill(places["vision_mask"] == 1, IMAGE)}


GEMMA3 = Interface(
    {**DECODER.inputs, "images": "pixel_values", "vision_mask": "token_type_ids"},
    DECODER.outputs,
    adapt=together,
    forms={"images": lambda images: images.flatten(0, 1).permute(0, 3, 1, 2)},
)
CONFIG = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 24,
    "intermediate_size": 18,
    "head_dim": 10,
    "query_pre_attn_scalar": 10,
    "sliding_window": 4,
}
VISION = {
    "image_size": 13,
    "patch_size": 3,
    "num_attention_heads": 2,
    "hidden_size": 10,
    "num_hidden_layers": 2,
    "intermediate_size": 14,
}
SCALED = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


def with_images(batch: int, length: int, count: int, tokens: int) -> Callable[..., Any]:
    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        places = np.concatenate([2 + np.arange(tokens) + i * (tokens + 1) for i in range(count)])
        token_ids = ids(rng, batch, length, IMAGE)
        mask = np.zeros((batch, length), "int32")
        token_ids[:, places] = IMAGE
        mask[:, places] = 1
        return {
            "token_ids": token_ids,
            "padding_mask": padding(rng, batch, length),
            "images": rng.standard_normal((batch, count, 13, 13, 3)).astype("float32"),
            "vision_indices": np.repeat(places[None].astype("int32"), batch, axis=0),
            "vision_mask": mask,
        }

    return make


def checkpoint(name: str, architecture: str, config: Any, make: Any, **options: Any) -> Checkpoint:
    return Checkpoint(name, architecture, "Gemma3Backbone", config, GEMMA3, make, **options)


CHECKPOINTS = [
    checkpoint("gemma3", "Gemma3ForCausalLM", {**CONFIG, "rope_parameters": SCALED}, inputs(4, 13)),
    checkpoint(
        "gemma3-bare",
        "Gemma3TextModel",
        {
            **CONFIG,
            "num_hidden_layers": 2,
            "final_logit_softcapping": 5.0,
            "layer_types": ["full_attention"] * 2,
        },
        inputs(4, 9),
    ),
    checkpoint(
        "gemma3-both-ways",
        "Gemma3TextModel",
        {**CONFIG, "use_bidirectional_attention": True},
        inputs(4, 11),
        in_keras_hub=False,  # a window of four there holds one key less
    ),
    checkpoint(
        "gemma3-vision",
        "Gemma3ForConditionalGeneration",
        {
            "text_config": {**CONFIG, "sliding_window": 5},
            "vision_config": {**VISION, "vision_use_head": False},
            "mm_tokens_per_image": 4,
            "image_token_index": IMAGE,
        },
        with_images(4, 17, 2, 4),
        in_keras_hub=False,  # it always pools four by four
    ),
    checkpoint(
        "gemma3-vision-bare",
        "Gemma3Model",
        {
            "text_config": CONFIG,
            "vision_config": VISION,
            "mm_tokens_per_image": 1,
            "image_token_index": IMAGE,
        },
        with_images(3, 9, 1, 1),
        in_keras_hub=False,
    ),
]
INEXPRESSIBLE = {
    "gemma3-images": "use_post_ffw_norm is False",
    "gemma3-capped": "attention_logit_soft_cap is 2.5",
    "gemma3-embedding": "is_embedding_model is True",
    "gemma3-images-window": "sliding_window_size is 3, smaller than an image of 4 tokens",
}
HEADS = [("Gemma3TextForSequenceClassification", CONFIG)]
REFUSED = [
    ("gemma3", {"layer_types": ["sliding_attention"] * 7}, "layer_types are not five times"),
    ("gemma3", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping is 5.0"),
    ("gemma3", {"sliding_window_pattern": 4, "layer_types": ...}, "sliding_window_pattern is 4"),
    (
        "gemma3",
        {"rope_parameters": {**SCALED, "full_attention": {"rope_type": "yarn", "factor": 2.0}}},
        "rope_type",
    ),
]
