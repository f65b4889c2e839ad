from __future__ import annotations

from typing import Any

import numpy as np

from ..oracle import Case
from .common import ids, padding

VOCABULARY = 31
MODULES = {
    "BLIP2VisionEncoder": "blip2_vision_encoder",
    "BLIP2QFormer": "blip2_qformer",
    "BLIP2CustomOPT": "blip2_custom_opt",
    "BLIP2FlanT5": "blip2_flan_t5_lm",
}


def part(name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "module": f"keras_hub.src.models.blip2.{MODULES[name]}",
        "class_name": name,
        "config": config,
        "registered_name": f"keras_hub>{name}",
    }


def tower(image_size: Any, patch_size: Any, **others: Any) -> dict[str, Any]:
    config = {
        "image_size": image_size,
        "patch_size": patch_size,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 10,
        "intermediate_dim": 14,
        "use_patch_bias": True,
        "use_class_token": True,
        "use_mha_bias": True,
        "use_mlp_bias": True,
        "dropout_rate": 0.0,
        "layer_norm_epsilon": 1e-6,
        "initializer_range": 0.02,
        **others,
    }
    return part("BLIP2VisionEncoder", config)


def qformer(**others: Any) -> dict[str, Any]:
    config = {
        "num_query_tokens": 3,
        "num_layers": 3,
        "num_heads": 2,
        "hidden_dim": 8,
        "intermediate_dim": 12,
        "vision_dim": 10,
        "cross_attention_frequency": 2,
        "dropout": 0.1,
        "layer_norm_epsilon": 1e-12,
        **others,
    }
    return part("BLIP2QFormer", config)


def opt(**others: Any) -> dict[str, Any]:
    config = {
        "vocabulary_size": VOCABULARY,
        "num_layers": 2,
        "num_heads": 3,
        "hidden_dim": 12,
        "intermediate_dim": 20,
        "num_query_tokens": 3,
        "dropout": 0.1,
        "max_sequence_length": 23,
        "qformer_hidden_dim": 8,
        **others,
    }
    return part("BLIP2CustomOPT", config)


def flan_t5(**others: Any) -> dict[str, Any]:
    config = {
        "vocabulary_size": VOCABULARY,
        "num_layers": 2,
        "num_heads": 3,
        "hidden_dim": 12,
        "intermediate_dim": 18,
        "num_query_tokens": 3,
        "qformer_hidden_dim": 8,
        "key_value_dim": 5,
        **others,
    }
    return part("BLIP2FlanT5", config)


def config(vision_encoder: Any, qformer: Any, language_model: Any) -> dict[str, Any]:
    return {
        "vision_encoder": vision_encoder,
        "qformer": qformer,
        "language_model": language_model,
    }


def images(rng: np.random.Generator, *shape: int) -> dict[str, np.ndarray]:
    return {"images": rng.standard_normal((*shape, 3)).astype("float32")}


def inputs(batch: int, length: int, *size: int) -> Any:
    return lambda rng: {
        "token_ids": ids(rng, batch, length, VOCABULARY),
        "padding_mask": padding(rng, batch, length),
        **(images(rng, batch, *size) if size else {}),
    }


def two_sided(batch: int, encoder_length: int, length: int, *size: int) -> Any:
    return lambda rng: {
        "encoder_token_ids": ids(rng, batch, encoder_length, VOCABULARY),
        "encoder_padding_mask": padding(rng, batch, encoder_length),
        "decoder_token_ids": ids(rng, batch, length, VOCABULARY),
        "decoder_padding_mask": padding(rng, batch, length),
        **images(rng, batch, *size),
    }


CASES = [
    Case(
        "blip2",
        "BLIP2Backbone",
        config(tower(9, 4), qformer(), opt()),
        inputs(5, 7, 9, 9),
        deviation=0.2,
    ),
    Case(
        "blip2-flan-t5",
        "BLIP2Backbone",
        config(
            tower((8, 12), (4, 3), use_class_token=False, use_mha_bias=False, name="tower"),
            qformer(cross_attention_frequency=1, num_layers=2),
            flan_t5(layer_norm_epsilon=1e-3),
        ),
        two_sided(5, 6, 4, 8, 12),
        deviation=0.2,
    ),
    Case(
        "blip2-text",
        "BLIP2Backbone",
        config(None, None, opt(num_query_tokens=0, dropout=0, layer_norm_epsilon=1e-3)),
        inputs(6, 11),
    ),
]


def preset(language_model: dict[str, Any]) -> dict[str, Any]:
    return config(
        tower(
            224,
            14,
            num_layers=39,
            num_heads=16,
            hidden_dim=1408,
            intermediate_dim=6144,
            initializer_range=1e-10,
        ),
        qformer(
            num_query_tokens=32,
            num_layers=12,
            num_heads=12,
            hidden_dim=768,
            intermediate_dim=3072,
            vision_dim=1408,
        ),
        language_model,
    )


def opt_preset(hidden_dim: int) -> dict[str, Any]:
    return preset(
        opt(
            vocabulary_size=50304,
            num_layers=32,
            num_heads=32,
            hidden_dim=hidden_dim,
            intermediate_dim=4 * hidden_dim,
            num_query_tokens=32,
            max_sequence_length=2048,
            qformer_hidden_dim=768,
        )
    )


def flan_t5_preset(num_heads: int, hidden_dim: int, intermediate_dim: int) -> dict[str, Any]:
    return preset(
        flan_t5(
            vocabulary_size=32128,
            num_layers=24,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            num_query_tokens=32,
            qformer_hidden_dim=768,
            key_value_dim=64,
        )
    )


PRESETS = {
    "blip2_opt_2.7b": opt_preset(2560),
    "blip2_opt_6.7b": opt_preset(4096),
    "blip2_flan_t5_xl": flan_t5_preset(32, 2048, 5120),
    "blip2_flan_t5_xxl": flan_t5_preset(64, 4096, 10240),
}
# The head, which a model has if a file has it.
MISCOUNTED = {"blip2_flan_t5_xl": 32128 * 2048, "blip2_flan_t5_xxl": 32128 * 4096}
