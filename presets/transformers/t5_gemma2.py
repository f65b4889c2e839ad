"""T5Gemma 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ...backbones.t5_gemma2 import T5Gemma2Backbone
from ..checkpoints.table import (
    Key,
    Operation,
    Rule,
    Table,
    constant,
    fixed,
    heads,
    key,
    only,
    rule,
    under,
)
from .gemma3 import PATTERN, vision, vision_config
from .t5_gemma import (
    ACTIVATION,
    MLP,
    NO_WINDOW,
    as_float,
    attention,
    both,
    norms,
    whole,
)

IMAGE_TOKEN = 256001


def save_shared(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    first, second = tensors
    if not first.is_meta and not torch.equal(first, second):
        raise ValueError(
            "The embeddings of the encoder and of the decoder differ; transformers has one for both"
        )
    return [first]


# Two of ours are one of theirs.
SHARE = Operation(save=save_shared, load=lambda tensors, shapes: [tensors[0], tensors[0].clone()])


def load_layer_types(kinds: Any, pattern: int | None, count: int) -> tuple[list[str]]:
    period = pattern or PATTERN
    local = ["sliding_attention" if (i + 1) % period else "full_attention" for i in range(count)]
    return (kinds or local,)


def inner(found: Key) -> Key:
    """The encoder's text has an object of its own."""
    names = {
        f"encoder.text_config.{name.removeprefix('encoder.')}"
        if name.startswith("encoder.")
        else name: default
        for name, default in found.theirs.items()
    }
    return replace(found, theirs=names)


def own(value: float | None, decoders: float) -> float:
    """What the encoder has, by default what the decoder has."""
    return float(decoders if value is None else value)


def rotary(side: str, wavelength: tuple[str, ...], factor: tuple[str, ...]) -> tuple[Key, ...]:
    """`wavelength` of layers with windows and `factor` of the others; a second argument stands in
    for the first where that is `None`.
    """
    path = f"{side}.rope_parameters"

    def load(kind: str, theta: float, found: float | None) -> tuple[float]:
        if theta != 1e6 or kind not in ("default", "linear"):
            raise ValueError(f"{path}.full_attention is {kind}, {theta}; only linear, 1e6 is known")
        return (found or 1.0,)

    def save(value: float | None, *decoders: float) -> tuple[Any, ...]:
        value = own(value, *decoders or (1.0,))
        return ("default", 1e6) if value == 1 else ("linear", 1e6, value)

    return (
        Key(
            {
                f"{path}.full_attention.rope_type": "default",
                f"{path}.full_attention.rope_theta": 1e6,
                f"{path}.full_attention.factor": None,
            },
            factor,
            load,
            save,
        ),
        fixed(f"{path}.sliding_attention.rope_type", "default"),
        Key(
            {f"{path}.sliding_attention.rope_theta": 1e4},
            wavelength,
            lambda theta: (theta,),
            lambda value, *decoders: (own(value, *decoders or (1e4,)),),
        ),
    )


def side(path: str, ours: str) -> tuple[Key, ...]:
    return (
        heads(f"{path}.num_attention_heads", f"{ours}_num_attention_heads", f"{ours}_hidden_dim"),
        key(f"{path}.num_key_value_heads", f"{ours}_num_key_value_heads", 4),
        key(f"{path}.head_dim", f"{ours}_head_dim", 256),
        key(f"{path}.intermediate_size", f"{ours}_intermediate_dim", 9216),
        key(f"{path}.num_hidden_layers", f"{ours}_num_layers", 26),
        Key(
            {
                f"{path}.layer_types": None,
                f"{path}.sliding_window_pattern": None,
                f"{path}.num_hidden_layers": 26,
            },
            (f"{ours}_layer_types", f"{ours}_num_layers"),
            load_layer_types,
            lambda kinds, count: (list(kinds)[:count],),
        ),
    )


CONFIG = (
    both(key("vocab_size", "vocabulary_size", 262208)),
    both(key("rms_norm_eps", "rms_norm_eps", 1e-6)),
    both(key("query_pre_attn_scalar", "query_pre_attn_scalar", 256, save=whole)),
    both(key("attention_bias", "attention_bias", False)),
    both(ACTIVATION),
    both(key("initializer_range", "initializer_range", 0.02)),
    # transformers reads it but does not apply it.
    only("encoder.attn_logit_softcapping", None),
    only("decoder.attn_logit_softcapping", None),
    constant(attn_logit_softcapping=None),
    both(
        key(
            "sliding_window",
            "sliding_window",
            4096,
            load=lambda window: None if window == NO_WINDOW else window,
            save=lambda window: NO_WINDOW if window is None else window,
        )
    ),
)
SELF_ATTENTION = attention("self_attn", "self_attention")
MERGED_ATTENTION = attention("self_attn", "merged_attention")


def query_key_norms(ours: str) -> tuple[Rule, ...]:
    return (
        rule("self_attn.q_norm.weight", f"{ours}.query_norm.weight"),
        rule("self_attn.k_norm.weight", f"{ours}.key_norm.weight"),
    )


T5_GEMMA2 = Table(
    model_types=("t5gemma2",),
    backbone=T5Gemma2Backbone,
    architecture="T5Gemma2ForConditionalGeneration",
    config=(
        *map(inner, CONFIG),
        Key(
            {"encoder.text_config.hidden_size": 2304},
            ("encoder_hidden_dim", "cross_attention_hidden_size"),
            lambda size: (size, size),
            lambda size, _: (size,),  # the other one has no effect
        ),
        key("decoder.hidden_size", "decoder_hidden_dim", 2304),
        *side("encoder.text_config", "encoder"),
        *side("decoder", "decoder"),
        *rotary(
            "encoder.text_config",
            ("encoder_rope_max_wavelength", "rope_max_wavelength"),
            ("encoder_global_rope_scaling_factor", "global_rope_scaling_factor"),
        ),
        *rotary("decoder", ("rope_max_wavelength",), ("global_rope_scaling_factor",)),
        key("dropout_rate", "dropout_rate", 0.0),
        key("attention_dropout", "attention_dropout", 0.0),
        key("decoder.final_logit_softcapping", "final_logit_softcapping", None, save=as_float),
        key("encoder.eoi_token_index", "eoi_token_index", 256000),
        # The model is told where images stand, but transformers looks for a token of the text.
        Key(
            {"image_token_index": IMAGE_TOKEN},
            ("vocabulary_size",),
            lambda index: (),
            lambda size: (min(IMAGE_TOKEN, size - 1),),
        ),
        only("tie_word_embeddings", True),
        constant(tie_word_embeddings=True, use_query_key_norm=True),
        *vision_config("encoder.", "encoder.text_config.hidden_size", ("vision_encoder",)),
    ),
    ignored=(
        "*.attention_dropout",
        "*.dropout_rate",
        "*.max_position_embeddings",
        "*.model_type",
        "*.tie_word_embeddings",
        "classifier_dropout_rate",
        "encoder.boi_token_index",
        "encoder.image_token_index",
        "encoder.text_config.final_logit_softcapping",
        "eoi_token_index",
        "vocab_size",
    ),
    weights=(
        rule(
            "model.encoder.embed_tokens.weight",
            ("encoder_token_embedding.weight", "decoder_token_embedding.weight"),
            SHARE,
        ),
        rule(
            "model.encoder.embed_tokens.eoi_embedding",
            ("encoder_eoi_embedding", "decoder_eoi_embedding"),
            SHARE,
        ),
        *under(
            "model.encoder.layers.{}.",
            "encoder_layers.{}.",
            (
                *SELF_ATTENTION,
                *query_key_norms("self_attention"),
                *norms("", "self_attn", "feedforward"),
                *MLP,
            ),
        ),
        rule("model.encoder.norm.weight", "encoder_norm.weight"),
        *vision("model.encoder."),
        *under(
            "model.decoder.layers.{}.",
            "decoder_layers.{}.",
            (
                *MERGED_ATTENTION,
                *query_key_norms("merged_attention"),
                *norms("decoder_", "self_attn", "feedforward"),
                *MLP,
            ),
        ),
        rule("model.decoder.norm.weight", "decoder_norm.weight"),
    ),
    renames=(
        *((name, f"model.{name}") for name in ("encoder.*", "decoder.*")),
        ("model.encoder.text_model.*", "model.encoder.*"),
        ("model.encoder.vision_tower.vision_model.*", "model.encoder.vision_tower.*"),
    ),
    dropped=("model.encoder.vision_tower.head.*", "score.*"),
    tied={
        "model.decoder.embed_tokens.weight": "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.eoi_embedding": "model.encoder.embed_tokens.eoi_embedding",
        "lm_head.out_proj.weight": "model.encoder.embed_tokens.weight",
    },
)
TABLES = (T5_GEMMA2,)
