"""CLIP, and what models with its towers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...backbones.clip import CLIPBackbone, CLIPTextEncoder, CLIPVisionEncoder
from ..checkpoints.table import (
    Key,
    Operation,
    Table,
    Tensors,
    activation,
    assumed,
    constant,
    heads,
    key,
    layer,
    of,
    rule,
    under,
    within,
)
from .vit import channels_last, side

# theirs → ours; of several the first is written.
ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_approximate",
    "gelu_new": "gelu_approximate",
    "relu": "relu",
    "silu": "silu",
}


def load_shape(size: int | Sequence[int], channels: int) -> tuple[list[int]]:
    pixels = side(size, "image_size")
    return ([pixels, pixels, channels],)


def save_shape(shape: Sequence[int], data_format: str | None) -> tuple[int, int]:
    height, width, channels = channels_last(shape, data_format)
    return side((height, width), "image_shape"), channels


def blocks(layers: int, num_heads: int, dim: int) -> tuple[Key, ...]:
    """Sizes with their defaults there."""
    return (
        key("num_hidden_layers", "num_layers", layers),
        heads("num_attention_heads", "num_heads", "hidden_dim", num_heads),
        key("intermediate_size", "intermediate_dim", dim),
    )


def words(size: int, dim: int, longest: int) -> tuple[Key, ...]:
    return (
        key("vocab_size", "vocabulary_size", size),
        Key(
            {"hidden_size": dim},
            ("hidden_dim", "embedding_dim"),
            lambda dim: (dim, dim),
            lambda dim, _: (dim,),
        ),
        key("max_position_embeddings", "max_sequence_length", longest),
    )


def pixels(size: int, patch: int, dim: int) -> tuple[Key, ...]:
    return (
        Key(
            {"image_size": size, "num_channels": 3},
            ("image_shape", "data_format"),
            load_shape,
            save_shape,
        ),
        key("patch_size", "patch_size", patch, side),
        key("hidden_size", "hidden_dim", dim),
    )


def number(tensors: Tensors, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
    return [tensors[0], torch.arange(shapes[1][1], dtype=torch.int32)[None]]


SCALAR = Operation(
    save=lambda tensors: [tensor[0] for tensor in tensors],
    load=lambda tensors, shapes: [tensor[None] for tensor in tensors],
)
# There are no numbers there: rows stand in the order in which these pick them.
NUMBERED = Operation(save=lambda tensors: [tensors[0][tensors[1][0].long()]], load=number)
POSITIONS = rule("embeddings.position_embedding.weight", "embedding.position_embedding.weight")
NUMBERED_POSITIONS = replace(
    POSITIONS, ours=(*POSITIONS.ours, "embedding.position_ids"), operations=(NUMBERED,)
)
CONFIG = (
    activation("hidden_act", "intermediate_activation", "quick_gelu", ACTIVATIONS),
    assumed("layer_norm_eps", 1e-5),
    constant(intermediate_output_index=None),
)
TEXT_CONFIG = (*words(49408, 512, 77), *blocks(12, 8, 2048), *CONFIG)
VISION_CONFIG = (*pixels(224, 32, 768), *blocks(12, 12, 3072), *CONFIG)
# Their training has dropout, KerasHub's has not.
IGNORED = (
    "attention_dropout",
    "projection_dim",
    # What older versions wrote.
    "add_cross_attention",
    "cross_attention_hidden_size",
    "dropout",
    "is_decoder",
    "pruned_heads",
    "tf_legacy_loss",
    "tie_word_embeddings",
)
PARTS = ("text_config", "vision_config")
INNER_IGNORED = (
    *(f"{part}{old}.{name}" for part in PARTS for old in ("", "_dict") for name in IGNORED),
    *(f"{part}_dict" for part in PARTS),
)
ATTENTION = {"q": "query", "k": "key", "v": "value"}
BLOCK = (
    *(
        one
        for letter, name in ATTENTION.items()
        for one in layer(f"self_attn.{letter}_proj", f"attention.{name}")
    ),
    *layer("self_attn.out_proj", "attention.attention_output"),
    *layer("layer_norm1", "layer_norm_1"),
    *layer("layer_norm2", "layer_norm_2"),
    *layer("mlp.fc1", "dense_1"),
    *layer("mlp.fc2", "dense_2"),
)
BLOCKS = under("encoder.layers.{}.", "encoder_layers.{}.", BLOCK)
TOKENS = rule("embeddings.token_embedding.weight", "embedding.token_embedding.weight")
TEXT = (TOKENS, POSITIONS, *BLOCKS, *layer("final_layer_norm", "layer_norm"))
PATCHES = (
    rule("embeddings.class_embedding", "embedding.class_embedding"),
    rule("embeddings.patch_embedding.weight", "embedding.patch_embedding.weight"),
)
VISION = (
    *PATCHES,
    NUMBERED_POSITIONS,
    *layer("pre_layrnorm", "pre_layer_norm"),
    *BLOCKS,
    *layer("post_layernorm", "layer_norm"),
)
NUMBERS = ("embeddings.position_ids",)
INNER_NUMBERS = tuple(f"{part}_model.{name}" for part in ("text", "vision") for name in NUMBERS)


def check_end(eos: Any, older: Any, size: int) -> tuple[()]:
    """That the token which ends a text has the highest id: by that KerasHub finds it.

    2 is what older versions wrote for it.
    """
    eos = eos if older is None else older
    if eos not in (2, size - 1):
        raise ValueError(
            f"text_config.eos_token_id is {eos}; only the last of vocab_size={size} can be found"
        )
    return ()


def twice(part: str, keys: Iterable[Key], ours: str) -> tuple[Key, ...]:
    """As `within`, for keys that older versions wrote twice: `text_config_dict` overrules."""

    def overruled(key: Key) -> Key:
        count = len(key.theirs)
        further = [name.replace(part, f"{part}_dict", 1) for name in key.theirs]

        def load(*values: Any) -> tuple[Any, ...]:
            pairs = zip(values[:count], values[count:])
            return key.load(*(first if second is None else second for first, second in pairs))

        return replace(key, theirs={**key.theirs, **dict.fromkeys(further)}, load=load)

    return tuple(map(overruled, within(f"{part}.", keys, ours)))


CLIP = Table(
    model_types=("clip",),
    backbone=CLIPBackbone,
    parts={"vision_encoder": CLIPVisionEncoder, "text_encoder": CLIPTextEncoder},
    architecture="CLIPModel",
    config=(
        *twice("vision_config", VISION_CONFIG, "vision_encoder"),
        *twice("text_config", TEXT_CONFIG, "text_encoder"),
        key("projection_dim", "projection_dim", 512),
        Key(
            {
                "text_config.eos_token_id": 49407,
                "text_config_dict.eos_token_id": None,
                "text_config.vocab_size": 49408,
            },
            (),
            check_end,
            lambda: (2,),
        ),
    ),
    ignored=("logit_scale_init_value", *INNER_IGNORED),
    weights=(
        *of("text_encoder", "text_model.", TEXT),
        *of("vision_encoder", "vision_model.", VISION),
        rule("visual_projection.weight", "vision_projection.weight"),
        rule("text_projection.weight", "text_projection.weight"),
        rule("logit_scale", "clip_head.logit_scale", SCALAR),
    ),
    dropped=INNER_NUMBERS,
)
CLIP_TEXT = Table(
    model_types=("clip_text_model",),
    backbone=CLIPTextEncoder,
    architecture="CLIPTextModel",
    config=TEXT_CONFIG,
    ignored=IGNORED,
    weights=TEXT,
    renames=(("text_model.*", "*"),),
    dropped=(*NUMBERS, "text_projection.weight"),
)
CLIP_VISION = Table(
    model_types=("clip_vision_model",),
    backbone=CLIPVisionEncoder,
    architecture="CLIPVisionModel",
    config=VISION_CONFIG,
    ignored=IGNORED,
    weights=VISION,
    renames=(("vision_model.*", "*"),),
    dropped=(*NUMBERS, "visual_projection.weight"),
)
TABLES = (CLIP, CLIP_TEXT, CLIP_VISION)
