"""T5Gemma."""

from __future__ import annotations

import warnings
from typing import Any

from ...backbones.layers.masks import FULL, SLIDING
from ...backbones.t5_gemma import T5GemmaBackbone
from ..checkpoints.table import (
    REQUIRED,
    TRANSPOSE,
    Key,
    Rule,
    Table,
    activation,
    fixed,
    heads,
    key,
    only,
    rule,
    under,
)

ACTIVATION = activation(
    "hidden_activation",
    "hidden_activation",
    "gelu_pytorch_tanh",
    {"gelu_pytorch_tanh": "gelu_approximate", "gelu": "gelu", "silu": "silu"},
)
NO_WINDOW = 2**31 - 1  # transformers wants a number, even for layers without one


def both(one: Key) -> Key:
    """A key that must be the same for the encoder and the decoder."""
    ((name, default),) = one.theirs.items()

    def check(encoder: Any, decoder: Any) -> tuple[Any, ...]:
        if encoder != decoder:
            raise ValueError(
                f"{name} is {encoder!r} in the encoder and {decoder!r} in the decoder; only equal "
                "ones can be computed"
            )
        return one.load(decoder)

    theirs = {f"encoder.{name}": default, f"decoder.{name}": default}
    return Key(theirs, one.ours, check, lambda value: one.save(value) * 2)


def alternating(layer_types: Any, count: int) -> list[str]:
    return layer_types or [FULL if i % 2 else SLIDING for i in range(count)]


def layer_types(side: str) -> Key:
    return Key(
        {f"{side}.layer_types": None, f"{side}.num_hidden_layers": REQUIRED},
        (f"{side}_layer_types", f"{side}_num_layers"),
        lambda kinds, count: (alternating(kinds, count), count),
        lambda kinds, count: (list(kinds)[:count], count),
    )


def check_encoder_window(window: int | None, kinds: Any, count: int, positions: int) -> tuple[()]:
    if (
        window is not None
        and window < positions
        and "sliding_attention" in alternating(kinds, count)
    ):
        warnings.warn(
            f"encoder.sliding_window is {window}, but the encoder of T5GemmaBackbone, as "
            "KerasHub's, has no windows: longer inputs give other outputs.",
            stacklevel=2,
        )
    return ()


def whole(scalar: float) -> int:
    if scalar != int(scalar):
        raise ValueError(f"query_pre_attn_scalar is {scalar}; transformers needs a whole number")
    return int(scalar)


def as_float(soft_cap: float | None) -> float | None:
    """transformers does not take integers here."""
    return None if soft_cap is None else float(soft_cap)


def load_wavelength(*values: float | None) -> tuple[float]:
    """From the keys of the encoder and the decoder, those of older files last."""
    found = {value for value in values if value is not None} or {1e4}
    if len(found) > 1:
        raise ValueError(f"rope_theta is {' and '.join(map(str, found))}; only one can be computed")
    return (found.pop(),)


def side(name: str) -> tuple[Key, ...]:
    return (
        heads(f"{name}.num_attention_heads", f"{name}_num_attention_heads", f"{name}_hidden_dim"),
        key(f"{name}.num_key_value_heads", f"{name}_num_key_value_heads"),
        key(f"{name}.head_dim", f"{name}_head_dim"),
        key(f"{name}.intermediate_size", f"{name}_intermediate_dim"),
        layer_types(name),
        fixed(f"{name}.rope_parameters.rope_type", "default"),
        only(f"{name}.rope_scaling", None),
    )


def attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    names = (("q", "query"), ("k", "key"), ("v", "value"), ("o", "attention_output"))
    return tuple(
        one
        for letter, name in names
        for one in (
            rule(f"{theirs}.{letter}_proj.weight", f"{ours}.{name}.weight"),
            rule(f"{theirs}.{letter}_proj.bias", f"{ours}.{name}.bias", attention_bias=True),
        )
    )


def norms(ours: str, *names: str) -> tuple[Rule, ...]:
    return tuple(
        rule(
            f"{position}_{name}_layernorm.weight",
            f"{ours}{position}_{name.replace('attn', 'attention')}_layernorm.weight",
        )
        for name in names
        for position in ("pre", "post")
    )


MLP = tuple(rule(f"mlp.{name}_proj.weight", f"mlp.{name}_proj.weight") for name in ("gate", "up"))
MLP += (rule("mlp.down_proj.weight", "mlp.down_proj.weight"),)
SELF_ATTENTION = attention("self_attn", "self_attention")
T5_GEMMA = Table(
    model_types=("t5gemma",),
    backbone=T5GemmaBackbone,
    architecture="T5GemmaForConditionalGeneration",
    config=(
        Key(
            {"vocab_size": None, "encoder.vocab_size": 256000, "decoder.vocab_size": 256000},
            ("vocabulary_size",),
            lambda _, encoder, decoder: both(key("vocab_size", "")).load(encoder, decoder),
            lambda size: (size,) * 3,
        ),
        Key(
            {"encoder.hidden_size": REQUIRED},
            ("encoder_hidden_dim", "cross_attention_hidden_size"),
            lambda size: (size, size),
            lambda size, _: (size,),  # the other one has no effect
        ),
        key("decoder.hidden_size", "decoder_hidden_dim"),
        *side("encoder"),
        *side("decoder"),
        key("dropout_rate", "dropout_rate", 0.0),
        key("attention_dropout", "attention_dropout", 0.0),
        both(key("rms_norm_eps", "rms_norm_eps", 1e-6)),
        both(key("query_pre_attn_scalar", "query_pre_attn_scalar", 256, save=whole)),
        both(key("attention_bias", "attention_bias", False)),
        both(ACTIVATION),
        both(key("initializer_range", "initializer_range", 0.02)),
        both(key("attn_logit_softcapping", "attn_logit_softcapping", 50.0, save=as_float)),
        key(
            "decoder.final_logit_softcapping",
            "final_logit_softcapping",
            30.0,
            save=as_float,
        ),
        key("tie_word_embeddings", "tie_word_embeddings", True),
        # There a window counts the query, too.
        key(
            "decoder.sliding_window",
            "sliding_window",
            4096,
            load=lambda window: window - 1 if window and window < NO_WINDOW else None,
            save=lambda window: NO_WINDOW if window is None else window + 1,
        ),
        Key(
            {
                "encoder.sliding_window": 4096,
                "encoder.layer_types": None,
                "encoder.num_hidden_layers": REQUIRED,
                "encoder.max_position_embeddings": 8192,
            },
            (),
            check_encoder_window,
            lambda: (NO_WINDOW,),
        ),
        Key(
            {
                "encoder.rope_parameters.rope_theta": None,
                "decoder.rope_parameters.rope_theta": None,
                "encoder.rope_theta": None,
                "decoder.rope_theta": None,
            },
            ("rope_max_wavelength",),
            load_wavelength,
            lambda wavelength: (float(wavelength),) * 2,
        ),
    ),
    ignored=(
        "classifier_dropout_rate",
        "*coder.cross_attention_hidden_size",
        "decoder.max_position_embeddings",
        "encoder.final_logit_softcapping",
        "*coder.attention_dropout",
        "*coder.dropout_rate",
        "*coder.is_decoder",
        "*coder.tie_word_embeddings",
    ),
    weights=(
        rule("model.encoder.embed_tokens.weight", "encoder_token_embedding.weight"),
        *under(
            "model.encoder.layers.{}.",
            "encoder_layers.{}.",
            (*SELF_ATTENTION, *norms("", "self_attn", "feedforward"), *MLP),
        ),
        rule("model.encoder.norm.weight", "encoder_norm.weight"),
        rule("model.decoder.embed_tokens.weight", "decoder_token_embedding.weight"),
        rule("lm_head.out_proj.weight", "decoder_token_embedding.reverse_embeddings", TRANSPOSE),
        *under(
            "model.decoder.layers.{}.",
            "decoder_layers.{}.",
            (
                *SELF_ATTENTION,
                *attention("cross_attn", "cross_attention"),
                *norms("decoder_", "self_attn", "cross_attn", "feedforward"),
                *MLP,
            ),
        ),
        rule("model.decoder.norm.weight", "decoder_norm.weight"),
    ),
    renames=tuple((name, f"model.{name}") for name in ("encoder.*", "decoder.*")),
    dropped=("score.*", "model.encoder.rotary_emb.*", "model.decoder.rotary_emb.*"),
    tied={"lm_head.out_proj.weight": "model.decoder.embed_tokens.weight"},
)
TABLES = (T5_GEMMA,)
