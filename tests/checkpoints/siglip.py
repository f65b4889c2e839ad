from __future__ import annotations

from dataclasses import replace
from typing import Any

import transformers

from ..cases.clip import both, texts
from . import Checkpoint, Interface
from .clip import BOTH, GRAY, PIXELS, VISION_CONFIG
from .clip import TEXT_CONFIG as CLIP_TEXT
from .vit import images

TEXT = Interface(
    {"token_ids": "input_ids"},
    {"output": ("pooler_output", None)},
    auto=transformers.SiglipTextModel,
)
VISION = Interface({"images": "pixel_values"}, {"output": ("pooler_output", None)}, forms=PIXELS)
TEXT_CONFIG = {**CLIP_TEXT, "projection_size": 12}


def checkpoint(name: str, architecture: str, cls: str, config: Any, *others: Any) -> Checkpoint:
    return Checkpoint(name, architecture, cls, config, *others, in_keras_hub=False)


CHECKPOINTS = [
    checkpoint(
        "siglip",
        "SiglipModel",
        "SigLIPBackbone",
        {"text_config": TEXT_CONFIG, "vision_config": VISION_CONFIG},
        BOTH,
        both((3, 8, 8, 3), 5, 11),
    ),
    checkpoint(
        "siglip2-text",
        "Siglip2TextModel",
        "SigLIPTextEncoder",
        TEXT_CONFIG,
        replace(TEXT, auto=transformers.Siglip2TextModel),
        texts(3, 11),
    ),
    # Shorter texts than in training.
    checkpoint(
        "siglip-text",
        "SiglipTextModel",
        "SigLIPTextEncoder",
        {**CLIP_TEXT, "hidden_act": "gelu", "layer_norm_eps": 1e-3},
        TEXT,
        texts(3, 7),
    ),
    checkpoint(
        "siglip-vision",
        "SiglipVisionModel",
        "SigLIPVisionEncoder",
        GRAY,
        VISION,
        images(2, 11, 11, 1),
    ),
]
INEXPRESSIBLE = {
    "siglip-named": "layer_norm_epsilon is 0.001",
    "siglip-vision-channels-first": "layer_norm_epsilon is 0.001",
}
REFUSED = [
    ("siglip-vision", {"vision_use_head": False}, "vision_use_head is False"),
    ("siglip", {"model_type": "siglip2"}, "of type 'siglip2', which cannot be read"),
]
