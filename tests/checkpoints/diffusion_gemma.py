from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from . import Checkpoint
from .gemma4 import EXPERTS, GEMMA4, IMAGE, VISION_CONFIG, with_towers

# The pass over a prompt, which transformers calls the encoder's. It denoises what comes after it.
PROMPT = replace(GEMMA4, outputs={"output": ("encoder_last_hidden_state", "padding_mask")})
KEPT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "global_head_dim"),
    *("layer_types", "sliding_window", "num_global_key_value_heads"),
    *("num_experts", "top_k_experts", "moe_intermediate_size"),
)
CONFIG = {
    "text_config": {name: EXPERTS[name] for name in KEPT},
    "vision_config": {**VISION_CONFIG, "standardize": True},
    "image_token_id": IMAGE,
    "canvas_length": 3,
}


def images(count: int) -> Callable[..., Any]:
    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        given = with_towers(count, 0)(rng)
        return {name: value for name, value in given.items() if name != "vision_mask"}

    return make


def scaled_alike(model: Any) -> None:
    """The pass over a prompt has scalars of its own there; here it is computed with the others."""
    for name, scalar in model.named_buffers():
        if name.endswith("layer_scalar"):
            scalar.fill_(0.5 + int(name.split(".")[-2]))


def checkpoint(name: str, architecture: str, make: Callable[..., Any]) -> Checkpoint:
    return Checkpoint(
        name,
        architecture,
        "DiffusionGemmaBackbone",
        CONFIG,
        PROMPT,
        make,
        change=scaled_alike,
        in_keras_hub=False,
    )


CHECKPOINTS = [
    checkpoint("diffusion-gemma", "DiffusionGemmaForBlockDiffusion", images(2)),
    checkpoint("diffusion-gemma-bare", "DiffusionGemmaModel", images(1)),
]
