from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..oracle import Case
from .common import ids, padding
from .mobilenetv5 import M300, config, er, mqa, uir

VOCABULARY, IMAGE, SOUND = 41, 31, 37
TEXT: dict[str, Any] = {
    "text_vocab_size": VOCABULARY,
    "text_hidden_size": 12,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 6,
    "intermediate_size": [14, 10],
    "hidden_activation": "gelu_approximate",
    "layer_types": ["full_attention", "full_attention"],
    "sliding_window": 4,
    "rope_theta": 1e6,
    "max_position_embeddings": 64,
    "vocab_size_per_layer_input": 30,
    "hidden_size_per_layer_input": 5,
    "altup_num_inputs": 3,
    "laurel_rank": 2,
}
# A token for each image of 3 × 3 pixels.
SMALL_VISION = config(
    [er(8, 2, exp_ratios=1.0)], stem_size=8, num_features=7, use_msfa=False, image_shape=(3, 3, 3)
)
AUDIO: dict[str, Any] = {
    "hidden_size": 8,
    "input_feat_size": 9,
    "sscp_conv_channel_size": [3, 4],
    "sscp_conv_kernel_size": [[3, 3], [2, 3]],
    "sscp_conv_stride_size": [[2, 2], [1, 2]],
    "sscp_conv_group_norm_eps": 1e-3,
    "num_hidden_layers": 1,
    "rms_norm_eps": 1e-5,
    "gradient_clipping": 3.0,
    "residual_weight": 0.4,
    "num_attention_heads": 2,
    "attention_chunk_size": 3,
    "num_attention_context_right": 1,
    "num_attention_context_left": 3,
    "attention_logit_cap": 5.0,
    "conv_kernel_size": 3,
    "reduction_factor": 2,
}
TOWERS: dict[str, Any] = {
    "vision_encoder_config": SMALL_VISION,
    "vision_hidden_size": 8,
    "vision_vocab_size": 6,
    "vision_vocab_offset": 30,
    "image_token_id": IMAGE,
    "audio_encoder_config": AUDIO,
    "audio_hidden_size": 8,
    "audio_vocab_size": 5,
    "audio_vocab_offset": 36,
    "audio_soft_tokens_per_image": 3,
    "audio_token_id": SOUND,
}


def preset(num_hidden_layers: int, intermediate_size: int, num_kv_shared_layers: int) -> Any:
    kinds = [*["sliding_attention"] * 4, "full_attention"]
    return {
        "text_vocab_size": 262400,
        "text_hidden_size": 2048,
        "num_hidden_layers": num_hidden_layers,
        "pad_token_id": 0,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "intermediate_size": [intermediate_size] * num_hidden_layers,
        "hidden_activation": "gelu_approximate",
        "layer_types": kinds * (num_hidden_layers // 5),
        "sliding_window": 512,
        "rope_theta": 1e6,
        "max_position_embeddings": 32768,
        "vocab_size_per_layer_input": 262144,
        "hidden_size_per_layer_input": 256,
        "altup_num_inputs": 4,
        "laurel_rank": 64,
        "activation_sparsity_pattern": [*[0.95] * 10, *[0.0] * (num_hidden_layers - 10)],
        "altup_coef_clip": 120.0,
        "num_kv_shared_layers": num_kv_shared_layers,
        "final_logit_soft_cap": 30.0,
        "vision_encoder_config": {**M300, "image_shape": [768, 768, 3]},
        "vision_vocab_offset": 262144,
        "image_token_id": 262145,
        "audio_encoder_config": {
            "hidden_size": 1536,
            "input_feat_size": 128,
            "sscp_conv_channel_size": [128, 32],
            "sscp_conv_kernel_size": [[3, 3], [3, 3]],
            "sscp_conv_stride_size": [[2, 2], [2, 2]],
            "sscp_conv_group_norm_eps": 1e-3,
            "num_hidden_layers": 12,
            "rms_norm_eps": 1e-6,
            "gradient_clipping": 1e10,
            "residual_weight": 0.5,
            "num_attention_heads": 8,
            "attention_chunk_size": 12,
            "num_attention_context_right": 0,
            "num_attention_context_left": 13,
            "attention_logit_cap": 50.0,
            "conv_kernel_size": 5,
            "reduction_factor": 4,
        },
        "audio_hidden_size": 1536,
        "audio_vocab_offset": 262272,
        "audio_token_id": 262273,
    }


E2B, E4B = preset(30, 8192, 10), preset(35, 16384, 15)
PRESETS: dict[str, dict[str, Any]] = {
    "gemma3n_e2b": E2B,
    "gemma3n_e2b_it": E2B,
    "gemma3n_e4b": E4B,
    "gemma3n_e4b_it": E4B,
}


def text(batch: int, length: int) -> Callable[[np.random.Generator], dict[str, np.ndarray]]:
    return lambda rng: {
        "token_ids": ids(rng, batch, length, VOCABULARY),
        "padding_mask": padding(rng, batch, length),
    }


def seen_and_heard(
    batch: int,
    length: int,
    images: tuple[int, ...] = (),
    image_tokens: int = 1,
    sounds: tuple[int, ...] = (),
    sound_tokens: int = 3,
    shortest: int = 0,
) -> Callable[[np.random.Generator], dict[str, np.ndarray]]:
    """Text with as many places as images `(count, *shape)` and sounds `(count, frames, bins)` need,
    in each row elsewhere, but not at its end.

    Args:
        shortest: frames that no sound has fewer of. Where a token of sound is all padding,
            KerasHub's gradients are no numbers.
    """

    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        given = text(batch, length)(rng)
        tokens = given["token_ids"]
        tokens[np.isin(tokens, (IMAGE, SOUND))] = 5
        counts = [(IMAGE, images[0] * image_tokens)] if images else []
        counts += [(SOUND, sounds[0] * sound_tokens)] if sounds else []
        for row in tokens:
            places = rng.permutation(length - 2)
            for token, count in counts:
                row[places[:count]] = token
                places = places[count:]
        if images:
            given["images"] = rng.standard_normal((batch, *images)).astype("float32")
        if sounds:
            given["input_features"] = rng.standard_normal((batch, *sounds)).astype("float32")
            lengths = rng.integers(shortest, sounds[1] + 1, (batch, sounds[0], 1))
            given["input_features_mask"] = np.arange(sounds[1]) >= lengths
        return given

    return make


CASES = [
    # No two sizes are the same, or compiled code would take one for the other.
    Case(
        "gemma3n-towers",
        "Gemma3nBackbone",
        {**TEXT, **TOWERS, "num_hidden_layers": 1},
        seen_and_heard(5, 23, images=(6, 3, 3, 3), sounds=(4, 7, 9), shortest=5),
        steady=("images", "input_features", "input_features_mask"),
    ),
    Case(
        "gemma3n",
        "Gemma3nBackbone",
        {
            **TEXT,
            # Narrower and deeper ones amplify what rounds beyond the limits.
            "text_hidden_size": 16,
            "num_hidden_layers": 4,
            "intermediate_size": [14, 10, 7, 9],
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "hidden_activation": "silu",
            "rope_theta": 500.0,
            "rope_local_base_freq": 20.0,
            "rope_scaling": 2.0,
            "attention_bias": True,
            "attention_dropout": 0.2,
            "activation_sparsity_pattern": [0.6, 0.0, 0.3, 0.0],
            "altup_num_inputs": 2,
            "altup_active_idx": 1,
            "altup_correct_scale": False,
            "num_kv_shared_layers": 2,
            "final_logit_soft_cap": 3.0,
            "rms_norm_eps": 1e-4,
        },
        text(6, 13),
    ),
    Case(
        "gemma3n-odd",
        "Gemma3nBackbone",
        {
            **TEXT,
            **TOWERS,
            "num_hidden_layers": 1,
            "altup_num_inputs": 1,
            "vision_encoder_config": config(
                [er(8, 2, exp_ratios=1.0)],
                [uir(8, 3, 0, 2.0, 2), mqa(8, 2, 4, 2)],
                stem_size=8,
                num_features=6,
                msfa_output_resolution=[1, 2],
                image_shape=[3, 13, 10],
                data_format="channels_first",
                name="eyes",
            ),
            "vision_hidden_size": 6,
            "audio_encoder_config": {
                **AUDIO,
                "num_hidden_layers": 2,
                "num_attention_heads": 1,
                "attention_chunk_size": 2,
                "num_attention_context_right": 0,
                "num_attention_context_left": 0,
                "conv_kernel_size": 1,
                "reduction_factor": 1,
                "name": "ears",
                "dtype": "bfloat16",
                "more": 1,
            },
            "audio_soft_tokens_per_image": 9,
        },
        seen_and_heard(3, 27, (2, 3, 13, 10), 2, (2, 15, 9), 9),
    ),
]
