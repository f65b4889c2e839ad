from __future__ import annotations

from typing import Any

import torch

from ..cases.clip import both, texts
from . import Checkpoint, Interface
from .vit import images

PIXELS = {"images": lambda images: images.permute(0, 3, 1, 2)}
BOTH = Interface(
    {"images": "pixel_values", "token_ids": "input_ids"},
    {
        "vision_logits": ("logits_per_image", None),
        "text_logits": ("logits_per_text", None),
    },
    forms=PIXELS,
)
TEXT = Interface({"token_ids": "input_ids"}, {"output": ("last_hidden_state", None)})


def normed(model: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What transformers does to the class token alone."""
    return {"normed": model.post_layernorm(model(**given).last_hidden_state)}


VISION = Interface(
    {"images": "pixel_values"}, {"output": ("normed", None)}, forms=PIXELS, call=normed
)
TEXT_CONFIG = {
    "vocab_size": 23,
    "hidden_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 14,
    "max_position_embeddings": 11,
    "eos_token_id": 22,
}
VISION_CONFIG = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 8,
    "patch_size": 4,
}
GRAY = {**VISION_CONFIG, "image_size": 11, "num_channels": 1}
CONFIG = {"text_config": TEXT_CONFIG, "vision_config": VISION_CONFIG, "projection_dim": 7}


def ended(image_shape: tuple[int, ...], batch: int, length: int, eos: int = 22) -> Any:
    """Texts that end with their token of the highest id."""

    def make(rng: Any) -> Any:
        inputs = both(image_shape, batch, length)(rng)
        inputs["token_ids"][:, -2:] = eos
        return inputs

    return make


CHECKPOINTS = [
    Checkpoint(
        "clip",
        "CLIPModel",
        "CLIPBackbone",
        CONFIG,
        BOTH,
        ended((3, 8, 8, 3), 5, 9),
        in_keras_hub=False,
    ),
    Checkpoint(
        "clip-text",
        "CLIPTextModelWithProjection",
        "CLIPTextEncoder",
        {**TEXT_CONFIG, "hidden_act": "gelu"},
        TEXT,
        texts(3, 7),
        in_keras_hub=False,
    ),
    Checkpoint(
        "clip-vision",
        "CLIPVisionModel",
        "CLIPVisionEncoder",
        GRAY,
        VISION,
        images(2, 11, 11, 1),
        in_keras_hub=False,
    ),
]
INEXPRESSIBLE = {
    "clip-vision-index": "intermediate_output_index is 1",
    "clip-text-index": "intermediate_output_index is 1",
}
REFUSED = [
    ("clip", {"text_config": {**TEXT_CONFIG, "eos_token_id": 5}}, "eos_token_id is 5; only"),
    ("clip", {"vision_config": {**VISION_CONFIG, "image_size": [8, 12]}}, "only squares"),
    ("clip-text", {"hidden_act": "klingon"}, "hidden_act is 'klingon'"),
]
HEADS = [("CLIPVisionModelWithProjection", GRAY)]
OLD = [("clip", {"text_config_dict": {**TEXT_CONFIG, "dropout": 0.0}, "vision_config_dict": None})]
