from __future__ import annotations

from typing import Any

import numpy as np

from ..oracle import Case
from .clip import text, tower
from .common import ids, padding
from .vae import config as vae_config

ROOM = "keras_hub.src.models.stable_diffusion_3"


def serialized(module: str, class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "module": module,
        "class_name": class_name,
        "config": config,
        "registered_name": class_name,
    }


def vae(latents: int, **others: Any) -> dict[str, Any]:
    """Of one resolution."""
    config = vae_config(
        encoder_num_filters=[32],
        encoder_num_blocks=[1],
        decoder_num_filters=[32],
        decoder_num_blocks=[1],
        sample_channels=2 * latents,
        name="vae",
        **others,
    )
    return serialized("keras_hub.src.models.vae.vae_backbone", "VAEBackbone", config)


def clip(name: str, dim: int, **others: Any) -> dict[str, Any]:
    config = text(dim, intermediate_output_index=0, name=name, **others)
    return tower("clip", "CLIPTextEncoder", "text", **config)


def t5_config(**others: Any) -> dict[str, Any]:
    return {
        "vocabulary_size": 19,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 8,
        "intermediate_dim": 11,
        **others,
    }


def t5(**others: Any) -> dict[str, Any]:
    return serialized(f"{ROOM}.t5_encoder", "T5Encoder", t5_config(**others))


def config(**others: Any) -> dict[str, Any]:
    return {
        "mmdit_patch_size": 2,
        "mmdit_hidden_dim": 8,
        "mmdit_num_layers": 2,
        "mmdit_num_heads": 2,
        "mmdit_position_size": 5,
        "mmdit_qk_norm": None,
        "mmdit_dual_attention_indices": None,
        "vae": vae(4),
        "clip_l": clip("clip_l", 6, num_layers=1),
        "clip_g": clip("clip_g", 10, num_layers=1, intermediate_activation="gelu"),
        "latent_channels": 4,
        "image_shape": [16, 32, 3],
        **others,
    }


def mmdit(**others: Any) -> dict[str, Any]:
    return {
        "patch_size": 2,
        "hidden_dim": 8,
        "num_layers": 2,
        "num_heads": 2,
        "position_size": 4,
        "latent_shape": [6, 8, 5],
        "context_shape": [None, 7],
        "pooled_projection_shape": [9],
        **others,
    }


def flows(batch: int, height: int, width: int, channels: int, length: int, *dims: int) -> Any:
    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        context, pooled = dims
        found = {
            "latent": rng.standard_normal((batch, height, width, channels)),
            "context": rng.standard_normal((batch, length, context)),
            "pooled_projection": rng.standard_normal((batch, pooled)),
            "timestep": rng.uniform(0, 1000, (batch, 1)),
        }
        return {name: value.astype("float32") for name, value in found.items()}

    return make


def everything(
    batch: int, config: dict[str, Any], length: int, t5_length: int = 0, steps: int = 9
) -> Any:
    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        height, width, channels = config["image_shape"]
        latents = (batch, height // 8, width // 8, config["latent_channels"])
        inputs = {
            "images": rng.uniform(-1, 1, (batch, height, width, channels)).astype("float32"),
            "latents": rng.standard_normal(latents).astype("float32"),
        }
        for name in ("clip_l", "clip_g"):
            inputs[f"{name}_token_ids"] = ids(rng, batch, length, 23)
            inputs[f"{name}_negative_token_ids"] = ids(rng, batch, length, 23)
        inputs["num_steps"] = np.full(batch, steps, "int32")
        inputs["guidance_scale"] = rng.uniform(1, 8, batch).astype("float32")
        if t5_length:
            inputs["t5_token_ids"] = ids(rng, batch, t5_length, 19)
            inputs["t5_negative_token_ids"] = ids(rng, batch, t5_length, 19)
        return inputs

    return make


def masked(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"token_ids": ids(rng, 6, 9, 19), "padding_mask": padding(rng, 6, 9)}


def unmasked(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"token_ids": ids(rng, 2, 3, 19), "padding_mask": np.ones((2, 3), "int32")}


SMALL = config()
FULL = config(
    mmdit_patch_size=1,
    mmdit_hidden_dim=12,
    mmdit_num_layers=3,
    mmdit_num_heads=3,
    mmdit_qk_norm="rms_norm",
    mmdit_dual_attention_indices=[0, 1],
    vae=vae(3, output_channels=4, scale=0.7, shift=-0.2),
    t5=t5(hidden_dim=20, activation="gelu", key_value_dim=5),
    latent_channels=3,
    output_channels=4,
    num_train_timesteps=700,
    shift=1.0,
    image_shape=[24, 24, 3],
    name="flow",
)
PLAIN = mmdit()
DUAL = mmdit(
    patch_size=1,
    position_size=6,
    num_layers=3,
    hidden_dim=9,
    num_heads=3,
    mlp_ratio=1.5,
    latent_shape=[3, 5, 2],
    qk_norm="rms_norm",
    dual_attention_indices=[0, 2],
    name="diffuser",
)
CASES = [
    Case("mmdit", "MMDiT", PLAIN, flows(4, 6, 8, 5, 11, 7, 9)),
    Case("mmdit-dual", "MMDiT", DUAL, flows(2, 3, 5, 2, 1, 7, 9)),
    Case("t5-encoder", "T5Encoder", t5_config(), masked),
    Case(
        "t5-encoder-plain",
        "T5Encoder",
        t5_config(
            num_heads=3,
            key_value_dim=4,
            dropout=0.0,
            activation="silu",
            use_gated_activation=False,
            layer_norm_epsilon=1e-3,
            tie_embedding_weights=False,
            name="t5",
        ),
        unmasked,
    ),
    Case("sd3", "StableDiffusion3Backbone", SMALL, everything(6, SMALL, 7)),
    Case("sd3-t5", "StableDiffusion3Backbone", FULL, everything(2, FULL, 6, 4, steps=2)),
]


def encoder(name: str, dim: int, layers: int, heads: int, activation: str) -> dict[str, Any]:
    return tower(
        "clip",
        "CLIPTextEncoder",
        "text",
        vocabulary_size=49408,
        embedding_dim=dim,
        hidden_dim=dim,
        num_layers=layers,
        num_heads=heads,
        intermediate_dim=4 * dim,
        intermediate_activation=activation,
        intermediate_output_index=-2,
        max_sequence_length=77,
        name=name,
    )


def preset(dim: int, layers: int, position_size: int, **others: Any) -> dict[str, Any]:
    return {
        "mmdit_patch_size": 2,
        "mmdit_hidden_dim": dim,
        "mmdit_num_layers": layers,
        "mmdit_num_heads": dim // 64,
        "mmdit_position_size": position_size,
        "mmdit_qk_norm": "rms_norm",
        "mmdit_dual_attention_indices": None,
        "vae": serialized(
            "keras_hub.src.models.vae.vae_backbone",
            "VAEBackbone",
            {
                "encoder_num_filters": [128, 256, 512, 512],
                "encoder_num_blocks": [2, 2, 2, 2],
                "decoder_num_filters": [512, 512, 256, 128],
                "decoder_num_blocks": [3, 3, 3, 3],
                "name": "vae",
            },
        ),
        "clip_l": encoder("clip_l", 768, 12, 12, "quick_gelu"),
        "clip_g": encoder("clip_g", 1280, 32, 20, "gelu"),
        **others,
    }


PRESETS = {
    "stable_diffusion_3_medium": preset(1536, 24, 192, mmdit_qk_norm=None),
    "stable_diffusion_3.5_medium": preset(
        1536, 24, 384, mmdit_dual_attention_indices=list(range(13))
    ),
    "stable_diffusion_3.5_large": preset(2432, 38, 192),
    "stable_diffusion_3.5_large_turbo": preset(2432, 38, 192),
}
