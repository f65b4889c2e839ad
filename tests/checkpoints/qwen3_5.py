from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..cases.llama import inputs
from ..cases.qwen3_5 import vision_encoder, with_images
from . import DECODER, Checkpoint, Interface

IMAGE = 40


def place(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the token for an image where images are, for transformers looks for it."""
    if "vision_indices" not in given:
        return given
    ids = given["token_ids"] % IMAGE
    ids.view(-1)[given["vision_indices"].flatten().long()] = IMAGE
    return {**given, "token_ids": ids}


def text_positions(given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """KerasHub's positions; transformers by itself gives images their own."""
    if "pixel_values" not in given:
        return {}
    rows, length = given["token_ids"].shape
    return {"position_ids": torch.arange(length).expand(3, rows, length)}


QWEN3_5 = Interface(
    {**DECODER.inputs, "pixel_values": "pixel_values", "image_grid_thw": "image_grid_thw"},
    DECODER.outputs,
    adapt=place,
    forms={
        "pixel_values": lambda patches: patches.flatten(0, 1).permute(0, 4, 1, 2, 3).flatten(1),
        "image_grid_thw": lambda grid: grid.flatten(0, 1).long(),
    },
    besides=text_positions,
)
TEXT = {
    "vocab_size": 41,
    "hidden_size": 12,
    "intermediate_size": 18,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 5,
    "layer_types": ["linear_attention", "full_attention"],
}
EXPERTS = {
    **{name: value for name, value in TEXT.items() if name != "intermediate_size"},
    "moe_intermediate_size": 10,
    "shared_expert_intermediate_size": 14,
    "num_experts": 5,
    "num_experts_per_tok": 2,
}


VISION = {
    "depth": 2,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 14,
    "patch_size": 4,
    "out_hidden_size": 12,
    "num_position_embeddings": 27,
}


def checkpoint(
    name: str, architecture: str, inputs: Any, vision: Any = None, **others: Any
) -> Checkpoint:
    moe = "Moe" in architecture
    text = {**(EXPERTS if moe else TEXT), **others}
    seeing = {
        "text_config": text,
        "vision_config": vision,
        "image_token_id": IMAGE,
        "tie_word_embeddings": text.get("tie_word_embeddings", False),
    }
    return Checkpoint(
        name,
        architecture,
        "Qwen3_5MoeBackbone" if moe else "Qwen3_5Backbone",
        seeing if vision else text,
        QWEN3_5,
        inputs,
        # KerasHub reads no checkpoints of the text model alone, nor scaled positions.
        in_keras_hub=vision is not None and not others,
    )


def seen(batch: int, length: int, grid: list[list[int]], **vision: Any) -> Any:
    make = with_images(batch, length, grid, vision_encoder(**{**VISION, **vision}))

    def placed(rng: np.random.Generator) -> dict[str, np.ndarray]:
        given = place({name: torch.from_numpy(value) for name, value in make(rng).items()})
        return {name: value.numpy() for name, value in given.items()}

    return placed


ODD = {
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "layer_types": ["full_attention", "linear_attention"],
    "linear_num_key_heads": 1,
    "linear_conv_kernel_dim": 2,
    "tie_word_embeddings": True,
    "attention_dropout": 0.2,
    "rope_parameters": {
        "rope_type": "linear",
        "factor": 3.0,
        "rope_theta": 50.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [1, 1, 0],
        "mrope_interleaved": True,
    },
}
CHECKPOINTS = [
    checkpoint("qwen3.5", "Qwen3_5ForCausalLM", inputs(4, 9)),
    checkpoint("qwen3.5-odd", "Qwen3_5ForCausalLM", inputs(3, 13), **ODD),
    checkpoint("qwen3.5-bare", "Qwen3_5TextModel", inputs(1, 1)),
    checkpoint("qwen3.5-moe", "Qwen3_5MoeForCausalLM", inputs(4, 9)),
    checkpoint("qwen3.5-moe-odd", "Qwen3_5MoeForCausalLM", inputs(3, 13), **ODD),
    checkpoint("qwen3.5-moe-bare", "Qwen3_5MoeTextModel", inputs(1, 1)),
    checkpoint(
        "qwen3.5-vision",
        "Qwen3_5ForConditionalGeneration",
        seen(3, 19, [[1, 4, 6], [2, 2, 2], [1, 2, 6]]),
        VISION,
    ),
    checkpoint(
        "qwen3.5-vision-odd",
        "Qwen3_5Model",
        seen(2, 11, [[1, 3, 1], [2, 1, 2]], spatial_merge_size=1, in_channels=2),
        {**VISION, "spatial_merge_size": 1, "in_channels": 2, "temporal_patch_size": 2},
        **ODD,
    ),
    checkpoint(
        "qwen3.5-moe-vision",
        "Qwen3_5MoeForConditionalGeneration",
        seen(4, 9, [[1, 2, 4]]),
        VISION,
    ),
]
OLD = [
    (
        "qwen3.5",
        {"rope_parameters": ..., "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    ),
    ("qwen3.5", {"layer_types": ..., "full_attention_interval": 2}),
    ("qwen3.5-moe", {"num_experts": ..., "num_local_experts": 5}),
]
HEADS = [
    (
        "Qwen3_5ForSequenceClassification",
        {"text_config": TEXT, "vision_config": VISION, "pad_token_id": 0},
    )
]
REFUSED = [
    ("qwen3.5", {"attention_bias": True}, "attention_bias is True"),
    ("qwen3.5", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
    ("qwen3.5", {"attn_output_gate": False}, "attn_output_gate is False"),
    (
        "qwen3.5-vision",
        {"vision_config": {**VISION, "out_hidden_size": 13}},
        "vision_config.out_hidden_size is 13, not the text's 12",
    ),
    (
        "qwen3.5-vision",
        {"vision_config": {**VISION, "patch_size": [4, 3]}},
        r"vision_config.patch_size is \[4, 3\]",
    ),
    (
        "qwen3.5-vision",
        {"vision_config": {**VISION, "deepstack_visual_indexes": [1]}},
        r"deepstack_visual_indexes is \[1\]",
    ),
]
