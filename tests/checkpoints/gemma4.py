from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..cases.common import ids, padding
from ..cases.gemma import inputs
from ..cases.gemma4 import images
from . import DECODER, Checkpoint, Interface

VOCABULARY = 41
IMAGE, AUDIO, VIDEO = 40, 39, 38
FEATURES = 128


def plain(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in given.items() if name != "position_ids"}


def together(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten(0, 1)


GEMMA4 = Interface(
    {
        **DECODER.inputs,
        "position_ids": "position_ids",
        "pixel_values": "pixel_values",
        "pixel_position_ids": "image_position_ids",
        "vision_mask": "mm_token_type_ids",
        "audio_mel": "input_features",
        "audio_mel_mask": "input_features_mask",
    },
    DECODER.outputs,
    adapt=plain,
    forms={
        "pixel_values": together,
        "pixel_position_ids": together,
        "audio_mel": together,
        "audio_mel_mask": lambda mask: together(mask).bool(),
    },
)
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 10,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "global_head_dim": 8,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": VOCABULARY,
}
SHARED = {
    **TEXT,
    "head_dim": 8,
    "hidden_size_per_layer_input": 5,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "final_logit_softcapping": 3.0,
}
EXPERTS = {
    **TEXT,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 3,
    "enable_moe_block": True,
    "num_experts": 5,
    "top_k_experts": 2,
    "moe_intermediate_size": 3,
    "use_bidirectional_attention": "vision",
}
VISION_CONFIG = {
    "hidden_size": 8,
    "intermediate_size": 7,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "pooling_kernel_size": 2,
    "patch_size": 1,
    "position_embedding_size": 9,
}
AUDIO_CONFIG = {
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "subsampling_conv_channels": [FEATURES, 4],
    "attention_chunk_size": 2,
    "attention_context_left": 3,
    "conv_kernel_size": 3,
    "output_proj_dims": 5,
}
TOKENS = {"image_token_id": IMAGE, "audio_token_id": AUDIO, "video_token_id": VIDEO}


def with_towers(images_of: int, clips: int) -> Callable[..., Any]:
    """Three tokens of each image and of each clip, in all rows at the same places."""

    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        batch, length = 3, 13
        given = {
            "token_ids": ids(rng, batch, length, VIDEO),
            "padding_mask": padding(rng, batch, length),
            "position_ids": np.tile(np.arange(length, dtype="int32"), (batch, 1)),
        }
        towers = (("vision", images_of, IMAGE, 2), ("audio", clips, AUDIO, 9))
        for name, count, token, start in towers:
            places = start + np.arange(3 * count)
            if count:
                given["token_ids"][:, places] = token
                given[f"{name}_indices"] = np.tile(places.astype("int32"), (batch, 1))
                given[f"{name}_mask"] = np.isin(given["token_ids"], token).astype("int32")
        if images_of:
            given |= images(rng, batch, images_of, (2, 6), 0)
        if clips:
            mel = rng.standard_normal((batch, clips, 11, FEATURES)).astype("float32")
            given |= {"audio_mel": mel, "audio_mel_mask": np.ones(mel.shape[:-1], "int32")}
        return given

    return make


def checkpoint(name: str, architecture: str, config: Any, make: Any, **options: Any) -> Checkpoint:
    return Checkpoint(name, architecture, "Gemma4Backbone", config, GEMMA4, make, **options)


CHECKPOINTS = [
    checkpoint("gemma4-text", "Gemma4ForCausalLM", TEXT, inputs(4, 9), in_keras_hub=False),
    checkpoint(
        "gemma4",
        "Gemma4ForConditionalGeneration",
        {
            "text_config": SHARED,
            "vision_config": {**VISION_CONFIG, "use_clipped_linears": True},
            "audio_config": AUDIO_CONFIG,
            **TOKENS,
        },
        with_towers(2, 1),
    ),
    checkpoint(
        "gemma4-vision-bare",
        "Gemma4Model",
        {
            "text_config": EXPERTS,
            "vision_config": {**VISION_CONFIG, "standardize": True},
            **TOKENS,
        },
        with_towers(1, 0),
        in_keras_hub=False,  # it does not know per_layer_config
    ),
]
INEXPRESSIBLE = {
    "gemma4": "input_feat_size of the audio_encoder is 7",
    "gemma4-embedding": "attention_logit_soft_cap is 2.5",
}
REFUSED = [
    ("gemma4-text", {"head_dim": 2, "global_head_dim": 6, "per_layer_config": ...}, "turns none"),
    ("gemma4-text", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention is 'all'"),
    ("gemma4-text", {"attention_bias": True}, "attention_bias is True"),
    ("gemma4-text", {"per_layer_config": {"0": {"head_dim": 3}}}, "only global layers may differ"),
    (
        "gemma4",
        {"audio_config": {**AUDIO_CONFIG, "attention_context_left": 5}},
        "chunks of 2 with 5 to the left",
    ),
]
OLD = [
    (
        "gemma4-text",
        {"per_layer_config": ..., "global_head_dim": 8, "num_global_key_value_heads": None},
    )
]
