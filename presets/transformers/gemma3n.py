"""Gemma 3n, of text alone and with its towers.

Equal to transformers' are the decoder and the tower of sound, where no token is padding only: there
transformers puts the last word of the vocabulary, and KerasHub zeros. Features of images differ by
what `timm/mobilenetv5.py` says. Layers that use others' keys have projections for their own in
KerasHub, which nothing uses and transformers does not have.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...backbones._configuration import COMMON, constructor_arguments
from ...backbones.gemma3n import Gemma3nBackbone
from ...backbones.mobilenetv5 import MobileNetV5Backbone
from ..checkpoints.table import (
    Arguments,
    Key,
    Operation,
    Rule,
    Table,
    activation,
    constant,
    fixed,
    heads,
    key,
    only,
    rule,
    under,
    within,
)
from ..timm.mobilenetv5 import M300, MOBILENETV5

ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_approximate",
    "gelu": "gelu",
    "silu": "silu",
    "relu": "relu",
    "tanh": "tanh",
}
FULL, SLIDING = "full_attention", "sliding_attention"
UNCLIPPED = 1e30  # transformers wants a number


def load_widths(widths: int | list[int], count: int) -> tuple[list[int]]:
    return (list(widths) if isinstance(widths, Sequence) else [widths] * count,)


def load_sparsity(pattern: list[float] | None, count: int) -> tuple[list[float]]:
    sparse = 10 if count > 10 else 0
    return (pattern or [0.95] * sparse + [0.0] * (count - sparse),)


def save_sparsity(pattern: Sequence[float] | None, count: int) -> tuple[list[float]]:
    return ([float(one) for one in pattern[:count]] if pattern else [0.0] * count,)


def load_types(kinds: list[str] | None, count: int) -> tuple[list[str]]:
    return (kinds or [SLIDING if (i + 1) % 5 else FULL for i in range(count)],)


ROPE = {
    "rope_parameters.full_attention.rope_type": "default",
    "rope_parameters.full_attention.rope_theta": None,
    "rope_parameters.full_attention.factor": None,
    "rope_parameters.sliding_attention.rope_type": "default",
    "rope_parameters.sliding_attention.rope_theta": None,
    "rope_parameters.sliding_attention.factor": None,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": None,
}


def load_rope(*values: Any) -> tuple[float, float, float | None]:
    full, full_theta, factor, local, local_theta, local_factor, theta, local_base, old = values
    if old is not None:
        raise ValueError("rope_scaling is of an older form, for some layers only")
    if {full, local} - {"default", "linear"} or factor != local_factor:
        raise ValueError(
            f"rope_parameters are {full!r} by {factor} and {local!r} by {local_factor}; only "
            "'linear' by the same factor can be computed"
        )
    return full_theta or theta, local_theta or local_base, factor


def save_rope(theta: float, local_theta: float, factor: float | None) -> tuple[Any, ...]:
    if factor is None:
        # Absent, a factor would be written as null, which is none.
        return ("default", theta, None, "default", local_theta, None)
    return ("linear", theta, float(factor), "linear", local_theta, float(factor))


def save_shared(shared: int, count: int) -> tuple[int]:
    return (shared if 0 < shared < count else 0,)


def save_window(window: int | None) -> int:
    if window is None:
        raise ValueError("sliding_window is None; transformers needs a number")
    return window


CONFIG = (
    key("vocab_size", "text_vocab_size", 262400),
    key("hidden_size", "text_hidden_size", 2048),
    key("num_hidden_layers", "num_hidden_layers", 35),
    key("pad_token_id", "pad_token_id", 0),
    heads("num_attention_heads", "num_attention_heads", "text_hidden_size", 8),
    key("num_key_value_heads", "num_key_value_heads", 2),
    key("head_dim", "head_dim", 256),
    Key(
        {"intermediate_size": 16384, "num_hidden_layers": 35},
        ("intermediate_size", "num_hidden_layers"),
        load_widths,
        lambda widths, count: (list(widths[:count]),),
    ),
    activation("hidden_activation", "hidden_activation", "gelu_pytorch_tanh", ACTIVATIONS),
    Key(
        {"layer_types": None, "num_hidden_layers": 35},
        ("layer_types", "num_hidden_layers"),
        load_types,
        lambda kinds, count: (list(kinds[:count]),),
    ),
    key("sliding_window", "sliding_window", 512, save=save_window),
    Key(ROPE, ("rope_theta", "rope_local_base_freq", "rope_scaling"), load_rope, save_rope),
    key("max_position_embeddings", "max_position_embeddings", 32768),
    key("vocab_size_per_layer_input", "vocab_size_per_layer_input", 262144),
    key("hidden_size_per_layer_input", "hidden_size_per_layer_input", 256),
    key("altup_num_inputs", "altup_num_inputs", 4),
    key("laurel_rank", "laurel_rank", 64),
    key("attention_bias", "attention_bias", False),
    key("attention_dropout", "attention_dropout", 0.0),
    Key(
        {"activation_sparsity_pattern": None, "num_hidden_layers": 35},
        ("activation_sparsity_pattern", "num_hidden_layers"),
        load_sparsity,
        save_sparsity,
    ),
    key(
        "altup_coef_clip",
        "altup_coef_clip",
        120.0,
        lambda clip: None if clip == UNCLIPPED else clip,
        lambda clip: UNCLIPPED if clip is None else float(clip),
    ),
    key("altup_active_idx", "altup_active_idx", 0),
    key("altup_correct_scale", "altup_correct_scale", True),
    Key(
        {"num_kv_shared_layers": 15},
        ("num_kv_shared_layers", "num_hidden_layers"),
        lambda shared: (shared,),
        save_shared,
    ),
    key(
        "final_logit_softcapping",
        "final_logit_soft_cap",
        30.0,
        save=lambda cap: UNCLIPPED if cap is None else float(cap),
    ),
    only("tie_word_embeddings", True),
)


def keeps_keys(layer: int, arguments: Arguments) -> bool:
    """Whether a layer has keys and values of its own."""
    own = arguments["num_hidden_layers"] - arguments["num_kv_shared_layers"]
    return own <= 0 or layer < own


def borrows_keys(layer: int, arguments: Arguments) -> bool:
    return not keeps_keys(layer, arguments)


# Weights that only KerasHub has, and does not use.
UNUSED = Operation(
    save=lambda tensors: [],
    load=lambda tensors, shapes: [torch.zeros(shape) for shape in shapes],
)
# Weights that only transformers has, and does not use.
BESIDE_ZEROS = Operation(
    save=lambda tensors: [tensors[0], torch.zeros_like(tensors[0])],
    load=lambda tensors, shapes: [tensors[0]],
)


def same(*names: str) -> tuple[Rule, ...]:
    return tuple(rule(f"{name}.weight", f"{name}.weight") for name in names)


def attention() -> tuple[Rule, ...]:
    found: list[Rule] = [rule("self_attn.q_norm.weight", "attention.q_norm.weight")]
    for kind in ("weight", "bias"):
        when = {"attention_bias": True} if kind == "bias" else {}
        for name in ("q_proj", "o_proj"):
            found.append(rule(f"self_attn.{name}.{kind}", f"attention.{name}.{kind}", **when))
        for name in ("k_proj", "v_proj", *(("k_norm",) if kind == "weight" else ())):
            ours = f"attention.{name}.{kind}"
            kept = rule(f"self_attn.{name}.{kind}", ours, **when)
            found.append(replace(kept, where=keeps_keys))
            found.append(Rule((), (ours,), (UNUSED,), when, where=borrows_keys))
    return tuple(found)


NORM = "altup.router_norm.weight"
SCALE = "altup.correct_output_scale"
BLOCK = (
    *attention(),
    *same("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm"),
    *same("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    *same("altup.correction_coefs", "altup.prediction_coefs", "altup.modality_router"),
    rule(SCALE, SCALE, altup_correct_scale=True),
    rule(NORM, NORM, altup_correct_scale=True),
    Rule((NORM, SCALE), (NORM,), (BESIDE_ZEROS,), {"altup_correct_scale": False}),
    *same("laurel.linear_left", "laurel.linear_right", "laurel.post_laurel_norm"),
    *same("per_layer_input_gate", "per_layer_projection", "post_per_layer_input_norm"),
)
TEXT = (
    rule("embed_tokens.weight", "embed_tokens.embedding.weight"),
    rule("embed_tokens_per_layer.weight", "embed_tokens_per_layer.embedding.weight"),
    *under("layers.{}.", "transformer_layers.{}.", BLOCK),
    rule("norm.weight", "final_normalization.weight"),
    *same("per_layer_model_projection", "per_layer_projection_norm"),
    *same("altup_projections.{}", "altup_unembed_projections.{}"),
)
OURS = "embedding_processor."
# Of layers that use others' keys older files have projections for their own.
DROPPED = tuple(f"layers.{{}}.self_attn.{name}" for name in ("k_*", "v_*", "rotary_emb.*"))

GEMMA3N_TEXT = Table(
    model_types=("gemma3n_text",),
    backbone=Gemma3nBackbone,
    architecture="Gemma3nForCausalLM",
    config=(
        *CONFIG,
        key("rms_norm_eps", "rms_norm_eps", 1e-6),
        constant(vision_encoder_config=None, audio_encoder_config=None),
        # Without towers these change nothing.
        Key(
            {},
            (
                *(f"vision_{name}" for name in ("hidden_size", "vocab_size", "vocab_offset")),
                *(f"audio_{name}" for name in ("hidden_size", "vocab_size", "vocab_offset")),
                *("vision_soft_tokens_per_image", "audio_soft_tokens_per_image"),
                *("image_token_id", "audio_token_id"),
            ),
            tuple,
            lambda *values: (),
        ),
    ),
    weights=under("model.", f"{OURS}language_model.", TEXT),
    renames=tuple(
        (f"{name}*", f"model.{name}*")
        for name in ("embed_tokens", "layers.", "norm.", "per_layer_", "altup_")
    ),
    dropped=(*(f"model.{name}" for name in DROPPED), "score.*"),
    tied={"lm_head.weight": "model.embed_tokens.weight"},
)

# The towers

AUDIO_KEYS: dict[str, tuple[str, Any]] = {
    "input_feat_size": ("input_feat_size", 128),
    "sscp_conv_channel_size": ("sscp_conv_channel_size", (128, 32)),
    "sscp_conv_kernel_size": ("sscp_conv_kernel_size", ((3, 3), (3, 3))),
    "sscp_conv_stride_size": ("sscp_conv_stride_size", ((2, 2), (2, 2))),
    "sscp_conv_group_norm_eps": ("sscp_conv_group_norm_eps", 1e-3),
    "gradient_clipping": ("gradient_clipping", 1e10),
    "conf_num_hidden_layers": ("num_hidden_layers", 12),
    "conf_residual_weight": ("residual_weight", 0.5),
    "conf_num_attention_heads": ("num_attention_heads", 8),
    "conf_attention_chunk_size": ("attention_chunk_size", 12),
    "conf_attention_context_right": ("num_attention_context_right", 0),
    "conf_attention_context_left": ("num_attention_context_left", 13),
    "conf_attention_logit_cap": ("attention_logit_cap", 50.0),
    "conf_conv_kernel_size": ("conv_kernel_size", 5),
    "conf_reduction_factor": ("reduction_factor", 4),
}
EPSILON = 1e-6


def load_audio(width: int, *values: Any) -> tuple[dict[str, Any], int]:
    config = {ours: value for (ours, _), value in zip(AUDIO_KEYS.values(), values)}
    return {"hidden_size": width, "rms_norm_eps": EPSILON, **config}, width


def save_audio(config: Mapping[str, Any] | None, width: int) -> tuple[Any, ...]:
    if not config:
        raise ValueError("audio_encoder_config is None; transformers has no model without a tower")
    if config["rms_norm_eps"] != EPSILON:
        raise ValueError(
            f"rms_norm_eps of audio_encoder_config is {config['rms_norm_eps']}; transformers "
            f"computes with {EPSILON}"
        )
    return (width, *(config[ours] for ours, _ in AUDIO_KEYS.values()))


# timm's names of towers that pad as Keras does, and their arguments as KerasHub writes them.
TOWERS: dict[str, Mapping[str, Any]] = {
    "mobilenetv5_300m_enc": {k: v for k, v in M300.items() if not k.startswith("msfa_")}
}
IMAGE_SHAPE = [768, 768, 3]


def load_vision(architecture: str, model_args: Any) -> tuple[dict[str, Any]]:
    kind = architecture.partition(".")[0]
    if kind not in TOWERS or model_args:
        raise ValueError(
            f"vision_config.architecture is {architecture!r} with model_args {model_args}; only "
            f"{' or '.join(TOWERS)} without can be computed"
        )
    warnings.warn(
        f"{kind} computes GELU's tanh form in timm; as in KerasHub the model computes the exact "
        "form, which changes features of images by about 1e-3.",
        stacklevel=2,
    )
    return ({**TOWERS[kind], "image_shape": TOWERS[kind].get("image_shape", IMAGE_SHAPE)},)


def save_vision(config: Mapping[str, Any] | None) -> tuple[str, None]:
    if not config:
        raise ValueError("vision_encoder_config is None; transformers has no model without a tower")
    parameters = constructor_arguments(MobileNetV5Backbone)
    defaults = {k: p.default for k, p in parameters.items() if k not in NOT_COMPARED}
    given = {name: config.get(name, default) for name, default in defaults.items()}
    for kind, tower in TOWERS.items():
        if as_lists(given) == as_lists({**defaults, **tower, "image_shape": given["image_shape"]}):
            return kind, None
    raise ValueError(f"vision_encoder_config is not that of {' or '.join(TOWERS)}")


NOT_COMPARED = (*COMMON, "filters", "drop_path_rate", "se_layer", "se_from_exp", "round_chs_fn")


def as_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: as_lists(inner) for name, inner in value.items()}
    return [as_lists(one) for one in value] if isinstance(value, (list, tuple)) else value


def load_words(size: int, offset: int, words: int) -> tuple[int, int]:
    if size != offset + words:
        raise ValueError(
            f"vocab_size is {size}, not the {offset + words} at which the ids of sound end: "
            "transformers pads sound with the last one"
        )
    return offset, words


def embedder(name: str) -> tuple[Rule, ...]:
    names = ("embedding", "hard_embedding_norm", "soft_embedding_norm", "embedding_projection")
    return under(f"{name}.", f"{OURS}{name}.", same(*names))


FEED_FORWARD = same("pre_layer_norm", "ffw_layer_1", "ffw_layer_2", "post_layer_norm")
CONFORMER = (
    *under("ffw_layer_start.", "ffw_layer_start.", FEED_FORWARD),
    *same("attention.pre_attn_norm", "attention.post", "attention.post_norm"),
    rule("attention.attn.per_dim_scale", "attention.attn.per_dim_scale"),
    *same("attention.attn.relative_position_embedding.pos_proj"),
    *same(*(f"attention.attn.{name}_proj" for name in "qkv")),
    *same(*(f"lconv1d.{name}" for name in ("pre_layer_norm", "linear_start", "conv_norm"))),
    *same("lconv1d.depthwise_conv1d", "lconv1d.linear_end", "norm"),
    *under("ffw_layer_end.", "ffw_layer_end.", FEED_FORWARD),
)
AUDIO = (
    *under("conformer.{}.", "conformer.{}.", CONFORMER),
    *under(
        "subsample_conv_projection.",
        "subsample_conv_projection.",
        same("conv_{}.conv", "conv_{}.norm", "input_proj_linear"),
    ),
)
PARTS = ("language_model", "vision_tower", "audio_tower", "embed_vision", "embed_audio")
GEMMA3N = Table(
    model_types=("gemma3n",),
    backbone=Gemma3nBackbone,
    architecture="Gemma3nForConditionalGeneration",
    config=(
        *within("text_config.", CONFIG),
        fixed("text_config.model_type", "gemma3n_text"),
        fixed("text_config.rms_norm_eps", EPSILON),
        constant(rms_norm_eps=EPSILON),
        fixed("vision_config.model_type", "gemma3n_vision"),
        fixed("vision_config.rms_norm_eps", EPSILON),
        Key(
            {
                "vision_config.architecture": "mobilenetv5_300m_enc",
                "vision_config.model_args": None,
            },
            ("vision_encoder_config",),
            load_vision,
            save_vision,
        ),
        key("vision_config.hidden_size", "vision_hidden_size", 2048),
        key("vision_config.vocab_size", "vision_vocab_size", 128),
        key("vision_config.vocab_offset", "vision_vocab_offset", 262144),
        key("vision_soft_tokens_per_image", "vision_soft_tokens_per_image", 256),
        key("image_token_id", "image_token_id", 262145),
        fixed("audio_config.model_type", "gemma3n_audio"),
        fixed("audio_config.rms_norm_eps", EPSILON),
        Key(
            {
                "audio_config.hidden_size": 1536,
                **{f"audio_config.{name}": value for name, (_, value) in AUDIO_KEYS.items()},
            },
            ("audio_encoder_config", "audio_hidden_size"),
            load_audio,
            save_audio,
        ),
        Key(
            {
                "text_config.vocab_size": 262400,
                "audio_config.vocab_offset": 262272,
                "audio_config.vocab_size": 128,
            },
            ("audio_vocab_offset", "audio_vocab_size", "text_vocab_size"),
            load_words,
            lambda offset, words, size: (size, *load_words(size, offset, words)),
        ),
        key("audio_soft_tokens_per_image", "audio_soft_tokens_per_image", 188),
        key("audio_token_id", "audio_token_id", 262273),
    ),
    ignored=(
        *(f"{one}_token_id" for one in ("boi", "eoi", "boa", "eoa")),
        *(f"vision_config.{name}" for name in ("do_pooling", "label_names", "num_classes")),
        "tie_word_embeddings",
    ),
    weights=(
        *under("model.language_model.", f"{OURS}language_model.", TEXT),
        *under("model.vision_tower.timm_model.", f"{OURS}vision_encoder.", MOBILENETV5.weights),
        *under("model.audio_tower.", f"{OURS}audio_encoder.", AUDIO),
        *under("model.", "", (*embedder("embed_vision"), *embedder("embed_audio"))),
    ),
    renames=tuple((f"{name}.*", f"model.{name}.*") for name in PARTS),
    dropped=(*(f"model.language_model.{name}" for name in DROPPED), "score.*"),
    tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
)
TABLES = (GEMMA3N_TEXT, GEMMA3N)
