from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..oracle import Case
from .common import ids, padding

SMALL = {
    "vocabulary_size": 41,
    "image_size": None,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 1,
    "hidden_dim": 16,
    "intermediate_dim": 10,
    "head_dim": 6,
}
# Every other layer is global; the last two have the keys and values of the first two.
TEXT = {
    **SMALL,
    "num_layers": 4,
    "hidden_dim": 24,
    "layer_norm_epsilon": 1e-2,
    "num_query_heads": 6,
    "num_key_value_heads": 3,
    "query_head_dim_normalize": False,
    "final_logit_soft_cap": 3.0,
    "sliding_window_size": 4,
    "sliding_window_pattern": 2,
    "global_head_dim": 8,
    "local_rope_scaling_factor": 2.0,
    "global_rope_scaling_factor": 8.0,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 7,
    "num_global_key_value_heads": 2,
    "global_rope_wavelength": 1e3,
    "local_rope_wavelength": 1e2,
    "global_rope_partial_rotary_factor": 0.7,
    "use_double_wide_mlp": True,
    "enable_moe_block": True,
    "num_experts": 5,
    "expert_intermediate_dim": 5,
    "num_experts_per_token": 2,
}


def part(module: str, class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "module": f"keras_hub.src.models.gemma4.{module}",
        "class_name": class_name,
        "config": config,
        "registered_name": f"keras_hub>{class_name}",
    }


def vision_encoder(**config: Any) -> dict[str, Any]:
    config = {
        "image_size": 12,
        "patch_size": 1,
        "num_heads": 2,
        "hidden_dim": 8,
        "num_layers": 1,
        "intermediate_dim": 7,
        "head_dim": 4,
        "output_dim": 16,
        "num_key_value_heads": 1,
        "pool_size": 2,
        "position_embedding_size": 9,
        **config,
    }
    return part("gemma4_vision_encoder", "Gemma4VisionEncoder", config)


def audio_encoder(**config: Any) -> dict[str, Any]:
    config = {
        "input_feat_size": 7,
        "hidden_size": 12,
        "num_heads": 3,
        "num_layers": 1,
        "chunk_size": 2,
        "context_left": 3,
        "conv_kernel_size": 3,
        "sscp_conv_channels": [3, 4],
        "output_proj_dims": 5,
        "output_dim": 16,
        "dtype": "float32",  # KerasHub has no other
        **config,
    }
    return part("gemma4_audio_encoder", "Gemma4AudioEncoder", config)


def text(rng: np.random.Generator, batch: int, length: int) -> dict[str, np.ndarray]:
    start = rng.integers(0, 30, (batch, 1))
    return {
        "token_ids": ids(rng, batch, length, 41),
        "padding_mask": padding(rng, batch, length),
        "position_ids": (start + np.arange(length)).astype("int32"),
    }


def places(
    rng: np.random.Generator, batch: int, length: int, count: int, each: int, name: str
) -> dict[str, np.ndarray]:
    """Of `count` images or clips a row; every other row lacks one. The last two stay text."""
    indices = np.zeros((batch, count * each), "int32")
    mask = np.zeros((batch, length), "int32")
    for row in range(batch):
        present = (count - row % 2) * each
        chosen = 1 + np.sort(rng.permutation(length - 3)[:present])
        indices[row, :present] = chosen
        mask[row, chosen] = 1
    return {f"{name}_indices": indices, f"{name}_mask": mask}


def images(
    rng: np.random.Generator, batch: int, count: int, shape: tuple[int, int], padded: int
) -> dict[str, np.ndarray]:
    """Of one shape, in patches of a pixel, and so many patches of padding."""
    rows, columns = shape
    positions = np.full((batch, count, rows * columns + padded, 2), -1, "int32")
    row, column = np.divmod(np.arange(rows * columns), columns)
    positions[:, :, : rows * columns] = np.stack((column, row), axis=-1)
    pixels = rng.random((*positions.shape[:-1], 3)).astype("float32")
    return {"pixel_values": pixels, "pixel_position_ids": positions}


def sound(rng: np.random.Generator, batch: int, count: int, frames: int) -> dict[str, np.ndarray]:
    mask = np.ones((batch, count, frames), "int32")
    mask[1::2, :, frames - 5 :] = 0
    mel = rng.standard_normal((batch, count, frames, 7)).astype("float32")
    return {"audio_mel": mel, "audio_mel_mask": mask}


def of_text(batch: int, length: int) -> Callable[[np.random.Generator], dict[str, np.ndarray]]:
    return lambda rng: text(rng, batch, length)


def of_both(rng: np.random.Generator) -> dict[str, np.ndarray]:
    # No two sizes are the same, or compiled code would take one for the other.
    return {
        **text(rng, 5, 15),
        **images(rng, 5, 2, (2, 4), 4),
        **places(rng, 5, 15, 2, 3, "vision"),
        **sound(rng, 5, 1, 18),
        **places(rng, 5, 15, 1, 4, "audio"),
    }


def of_sound(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Without a row of padding only, of which KerasHub makes gradients that are no numbers."""
    given = {**text(rng, 3, 9), **sound(rng, 3, 2, 13), **places(rng, 3, 9, 2, 2, "audio")}
    given["padding_mask"][:, 4] = 1
    return given


CASES = [
    Case(
        "gemma4",
        "Gemma4Backbone",
        {
            **SMALL,
            "image_size": 12,
            "sliding_window_size": 3,
            "layer_types": ["sliding_attention", "full_attention"],
            "vision_encoder": vision_encoder(standardize=True),
            "audio_encoder": audio_encoder(),
            "use_vision_bidirectional_attention": True,
            "hidden_size_per_layer_input": 5,
            "vocab_size_per_layer_input": 43,
        },
        of_both,
    ),
    Case("gemma4-text", "Gemma4Backbone", TEXT, of_text(6, 11), deviation=0.2),
    Case(
        "gemma4-embedding",
        "Gemma4Backbone",
        {
            **SMALL,
            "attention_logit_soft_cap": 2.5,
            "use_sliding_window_attention": False,
            "audio_encoder": audio_encoder(
                num_layers=2,
                context_left=4,
                context_right=1,
                logit_cap=2.0,
                invalid_logit_value=-3.0,
                reduction_factor=2,
                residual_weight=0.7,
                gradient_clipping=1.5,
                sscp_kernel_sizes=[[1, 3], [3, 2]],
                sscp_stride_sizes=[[1, 2], [3, 1]],
                output_proj_dims=None,
                norm_eps=1e-3,
                sscp_norm_eps=1e-2,
            ),
            "num_audio_tokens_per_clip": 2,
            "layer_norm_epsilon": 1e-2,
            "use_bidirectional_attention": True,
            "dropout": 0.2,
            "is_embedding_model": True,
            "pooling_intermediate_dim": 7,
            "embedding_dim": 5,
        },
        of_sound,
    ),
]

LAYERS = {
    "vocabulary_size": 262144,
    "head_dim": 256,
    "global_head_dim": 512,
    "final_logit_soft_cap": 30.0,
    "global_rope_wavelength": 1e6,
    "local_rope_wavelength": 1e4,
    "global_rope_partial_rotary_factor": 0.25,
}
SPOKEN = {
    **LAYERS,
    "image_size": 896,
    "num_query_heads": 8,
    "hidden_size_per_layer_input": 256,
    "vocab_size_per_layer_input": 262144,
}
SEEN = {
    **LAYERS,
    "image_size": 896,
    "sliding_window_size": 1024,
    "use_vision_bidirectional_attention": True,
}
PATCHES = {
    "image_size": 896,
    "patch_size": 16,
    "pool_size": 3,
    "num_key_value_heads": None,
    "position_embedding_size": 10240,
}


def small_vision(output_dim: int) -> dict[str, Any]:
    return vision_encoder(
        **PATCHES,
        num_heads=12,
        hidden_dim=768,
        num_layers=16,
        intermediate_dim=3072,
        head_dim=64,
        output_dim=output_dim,
    )


def large_vision(output_dim: int) -> dict[str, Any]:
    return vision_encoder(
        **PATCHES,
        num_heads=16,
        hidden_dim=1152,
        num_layers=27,
        intermediate_dim=4304,
        head_dim=72,
        output_dim=output_dim,
        use_clipped_linears=False,
        standardize=True,
    )


def speech(output_dim: int) -> dict[str, Any]:
    config = {"output_dim": output_dim, "dtype": "float32"}
    return part("gemma4_audio_encoder", "Gemma4AudioEncoder", config)


E2B = {
    **SPOKEN,
    "num_layers": 35,
    "num_key_value_heads": 1,
    "hidden_dim": 1536,
    "intermediate_dim": 6144,
    "sliding_window_pattern": 5,
    "num_kv_shared_layers": 20,
    "use_double_wide_mlp": True,
    "vision_encoder": small_vision(1536),
    "audio_encoder": speech(1536),
}
E4B = {
    **SPOKEN,
    "num_layers": 42,
    "num_key_value_heads": 2,
    "hidden_dim": 2560,
    "intermediate_dim": 10240,
    "num_kv_shared_layers": 18,
    "vision_encoder": small_vision(2560),
    "audio_encoder": speech(2560),
}
A4B = {
    **SEEN,
    "num_layers": 30,
    "num_query_heads": 16,
    "num_key_value_heads": 8,
    "hidden_dim": 2816,
    "intermediate_dim": 2112,
    "num_global_key_value_heads": 2,
    "enable_moe_block": True,
    "num_experts": 128,
    "expert_intermediate_dim": 704,
    "vision_encoder": large_vision(2816),
}
DENSE = {
    **SEEN,
    "num_layers": 60,
    "num_query_heads": 32,
    "num_key_value_heads": 16,
    "hidden_dim": 5376,
    "intermediate_dim": 21504,
    "num_global_key_value_heads": 4,
    "vision_encoder": large_vision(5376),
}


def assistant(target: dict[str, Any], heads: int, hidden: int, intermediate: int) -> dict[str, Any]:
    kept = ("num_key_value_heads", "num_global_key_value_heads", "sliding_window_size")
    return {
        **LAYERS,
        **{name: target[name] for name in kept if name in target},
        "image_size": None,
        "num_layers": 4,
        "num_query_heads": heads,
        "hidden_dim": hidden,
        "intermediate_dim": intermediate,
        "final_logit_soft_cap": None,
        "sliding_window_pattern": 4,
        "num_kv_shared_layers": 4,
    }


PRESETS = {
    "gemma4_2b": E2B,
    "gemma4_instruct_2b": E2B,
    "gemma4_4b": E4B,
    "gemma4_instruct_4b": E4B,
    "gemma4_26b_a4b": A4B,
    "gemma4_instruct_26b_a4b": A4B,
    "gemma4_31b": DENSE,
    "gemma4_instruct_31b": DENSE,
    "gemma4_instruct_2b_assistant": assistant(E2B, 4, 256, 2048),
    "gemma4_instruct_4b_assistant": assistant(E4B, 4, 256, 2048),
    "gemma4_instruct_26b_a4b_assistant": assistant(A4B, 16, 1024, 8192),
    "gemma4_instruct_31b_assistant": assistant(DENSE, 32, 1024, 8192),
}
# The registry rounds the models' numbers, and counts layers of a task with the assistants.
MISCOUNTED = {
    "gemma4_2b": -4298467,
    "gemma4_instruct_2b": -4298467,
    "gemma4_4b": -41101802,
    "gemma4_instruct_4b": -41101802,
    "gemma4_26b_a4b": 194063794,
    "gemma4_instruct_26b_a4b": 194063794,
    "gemma4_31b": -273088876,
    "gemma4_instruct_31b": -273088876,
    "gemma4_instruct_2b_assistant": 1703936,
    "gemma4_instruct_4b_assistant": 1703936,
    "gemma4_instruct_26b_a4b_assistant": 1703936,
    "gemma4_instruct_31b_assistant": 1703936,
}
