"""BLIP-2, with OPT and with Flan-T5."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ...backbones.blip2 import BLIP2Backbone
from ...backbones.layers.t5 import BUCKETS, MAX_DISTANCE
from ..checkpoints.table import (
    BATCHED,
    FUSE,
    Key,
    Rule,
    Table,
    fixed,
    layer,
    like,
    only,
    rule,
    under,
)
from .opt import BLOCK as OPT_BLOCK
from .t5 import CROSS_ATTENTION, SELF_ATTENTION

Serialized = Mapping[str, Any]
VISION = {
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 14),
    "num_hidden_layers": ("num_layers", 39),
    "num_attention_heads": ("num_heads", 16),
    "hidden_size": ("hidden_dim", 1408),
    "intermediate_size": ("intermediate_dim", 6144),
    "layer_norm_eps": ("layer_norm_epsilon", 1e-6),
    "initializer_range": ("initializer_range", 1e-10),
}
VISION_CONSTANTS = {
    "use_patch_bias": True,
    "use_class_token": True,
    "use_mha_bias": True,
    "use_mlp_bias": True,
    "dropout_rate": 0.0,
}
QFORMER = {
    "num_hidden_layers": ("num_layers", 12),
    "num_attention_heads": ("num_heads", 12),
    "hidden_size": ("hidden_dim", 768),
    "intermediate_size": ("intermediate_dim", 3072),
    "cross_attention_frequency": ("cross_attention_frequency", 2),
    "hidden_dropout_prob": ("dropout", 0.1),
    "layer_norm_eps": ("layer_norm_epsilon", 1e-12),
}
OPT = {
    "vocab_size": ("vocabulary_size", 50272),
    "num_hidden_layers": ("num_layers", 12),
    "num_attention_heads": ("num_heads", 12),
    "hidden_size": ("hidden_dim", 768),
    "ffn_dim": ("intermediate_dim", 3072),
    "dropout": ("dropout", 0.1),
    "max_position_embeddings": ("max_sequence_length", 2048),
}
T5 = {
    "vocab_size": ("vocabulary_size", 32128),
    "num_layers": ("num_layers", 6),
    "num_heads": ("num_heads", 8),
    "d_model": ("hidden_dim", 512),
    "d_ff": ("intermediate_dim", 2048),
    "d_kv": ("key_value_dim", 64),
    "dropout_rate": ("dropout", 0.1),
    "layer_norm_epsilon": ("layer_norm_epsilon", 1e-6),
}
CLASSES = {"opt": "BLIP2CustomOPT", "t5": "BLIP2FlanT5"}
IMAGE_TOKENS = {"opt": 50265, "t5": 32100}


def part(class_name: str, **config: Any) -> Serialized:
    return {"registered_name": f"keras_hub>{class_name}", "config": config}


def named(keys: Mapping[str, tuple[str, Any]], values: Iterable[Any]) -> dict[str, Any]:
    """Arguments by name; an absent one has the key's default value."""
    return {
        ours: default if value is None else value
        for (ours, default), value in zip(keys.values(), values)
    }


def written(keys: Mapping[str, tuple[str, Any]], config: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(like(default, config[ours]) for ours, default in keys.values())


def under_key(prefix: str, keys: Iterable[str]) -> dict[str, Any]:
    return {f"{prefix}.{name}": None for name in keys}


def demand(where: str, config: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse what transformers has no key for."""
    for name, value in wanted.items():
        if config[name] != value:
            raise ValueError(f"{name} of the {where} is {config[name]!r}; only {value!r} is known")


def heads_divide(where: str, config: Mapping[str, Any]) -> None:
    if config["hidden_dim"] % config["num_heads"]:
        raise ValueError(
            f"hidden_dim {config['hidden_dim']} of the {where} is not divisible by num_heads "
            f"{config['num_heads']}"
        )


# The tower and the Q-Former


def side(name: str, size: Any) -> int:
    sides = {*size} if isinstance(size, (list, tuple)) else {size}
    if len(sides) > 1:
        raise ValueError(f"{name} is {size}, not a square")
    found: int = sides.pop()
    return found


def load_vision(*values: Any) -> tuple[Serialized]:
    config = named(VISION, values)
    for name in ("image_size", "patch_size"):
        config[name] = side(f"vision_config.{name}", config[name])
    return (part("BLIP2VisionEncoder", **config, **VISION_CONSTANTS),)


def save_vision(encoder: Serialized | None) -> tuple[Any, ...]:
    if encoder is None:
        raise ValueError("vision_encoder is None; transformers has no model of text alone")
    config = dict(encoder["config"])
    demand("vision_encoder", config, VISION_CONSTANTS)
    heads_divide("vision_encoder", config)
    for name in ("image_size", "patch_size"):
        config[name] = side(name, config[name])
    return written(VISION, config)


def load_qformer(tokens: int, width: int, *values: Any) -> tuple[Serialized]:
    config = named(QFORMER, values)
    return (part("BLIP2QFormer", num_query_tokens=tokens, vision_dim=width, **config),)


def save_qformer(qformer: Serialized | None) -> tuple[Any, ...]:
    if qformer is None:
        raise ValueError("qformer is None")
    config = qformer["config"]
    heads_divide("qformer", config)
    return config["num_query_tokens"], config["vision_dim"], *written(QFORMER, config)


# Language models


def kind_of(language_model: Serialized) -> str:
    name = language_model["registered_name"].rpartition(">")[2]
    return next(kind for kind, class_name in CLASSES.items() if class_name == name)


def is_opt(language_model: Serialized) -> bool:
    return kind_of(language_model) == "opt"


def is_t5(language_model: Serialized) -> bool:
    return kind_of(language_model) == "t5"


def language_model(
    kind: str, tokens: int, width: int | None, config: Mapping[str, Any]
) -> Serialized:
    sizes = {"num_query_tokens": tokens, "qformer_hidden_dim": width or 768}
    return part(CLASSES[kind], **sizes, **config)


def load_kind(kind: str) -> tuple[()]:
    if kind not in CLASSES:
        raise ValueError(f"text_config.model_type is {kind!r}; only opt and t5 are known")
    return ()


def load_opt(
    kind: str, tokens: int, width: int | None, embedding: int | None, *values: Any
) -> tuple[Serialized, ...]:
    if kind != "opt":
        return ()
    config = named(OPT, values)
    if embedding not in (None, config["hidden_dim"]):
        raise ValueError(
            f"text_config.word_embed_proj_dim is {embedding}; only hidden_size "
            f"{config['hidden_dim']} is known"
        )
    return (
        part(CLASSES[kind], num_query_tokens=tokens, qformer_hidden_dim=width or 768, **config),
    )


def save_opt(model: Serialized) -> tuple[Any, ...]:
    if kind_of(model) != "opt":
        return ()
    config = model["config"]
    demand("language_model", config, {"layer_norm_epsilon": 1e-5})
    heads_divide("language_model", config)
    check_projection(config["language_projection"])
    return (
        "opt",
        config["num_query_tokens"],
        config["qformer_hidden_dim"],
        config["hidden_dim"],
        *written(OPT, config),
    )


def load_t5(
    kind: str,
    tokens: int,
    width: int | None,
    feed_forward: str | None,
    decoder_layers: int | None,
    *values: Any,
) -> tuple[Serialized, ...]:
    if kind != "t5":
        return ()
    config = named(T5, values)
    if decoder_layers not in (None, config["num_layers"]):
        raise ValueError(
            f"text_config.num_decoder_layers is {decoder_layers}; only {config['num_layers']}, as "
            "num_layers, can be computed"
        )
    if feed_forward in ("gated-gelu", "gated-gelu_new"):
        warnings.warn(
            f"text_config.feed_forward_proj is {feed_forward!r}, with gelu's tanh form; as in "
            "KerasHub the model computes the exact form, which changes outputs by about 1e-3.",
            stacklevel=2,
        )
    elif feed_forward != EXACT:
        raise ValueError(
            f"text_config.feed_forward_proj is {feed_forward or 'relu'!r}; only gated-gelu can be "
            "computed"
        )
    return (
        part(CLASSES[kind], num_query_tokens=tokens, qformer_hidden_dim=width or 768, **config),
    )


# What transformers calls the exact form, where "gated-gelu" is the tanh form.
EXACT = "gated-gelu_python"


def save_t5(model: Serialized) -> tuple[Any, ...]:
    if kind_of(model) != "t5":
        return ()
    config = dict(model["config"])
    config["key_value_dim"] = config["key_value_dim"] or config["hidden_dim"] // config["num_heads"]
    check_projection(config["language_projection"])
    if config["lm_head"]["config"].get("use_bias"):
        raise ValueError("lm_head has a bias")
    return (
        "t5",
        config["num_query_tokens"],
        config["qformer_hidden_dim"],
        EXACT,
        config["num_layers"],
        *written(T5, config),
    )


def check_projection(projection: Serialized) -> None:
    config = projection["config"]
    if not config.get("use_bias", config.get("bias_axes")):
        raise ValueError("language_projection has no bias")


def load_tied(kind: str, tied: bool | None, scaled: bool | None) -> tuple[()]:
    # Since transformers 5 the second says of T5 what the first did.
    if kind == "t5" and (tied if scaled is None else scaled) is not False:
        raise ValueError("text_config.tie_word_embeddings is True; only False can be computed")
    if kind == "opt" and tied is False:
        raise ValueError("text_config.tie_word_embeddings is False; only True can be computed")
    return ()


SHARED = {
    "text_config.model_type": "opt",
    "num_query_tokens": 32,
    "qformer_config.hidden_size": None,
}
CONFIG = (
    Key(under_key("vision_config", VISION), ("vision_encoder",), load_vision, save_vision),
    Key(
        {
            "num_query_tokens": 32,
            "vision_config.hidden_size": 1408,
            **under_key("qformer_config", QFORMER),
        },
        ("qformer",),
        load_qformer,
        save_qformer,
    ),
    Key({"text_config.model_type": "opt"}, (), load_kind, tuple),
    Key(
        {**SHARED, "text_config.word_embed_proj_dim": None, **under_key("text_config", OPT)},
        ("language_model",),
        load_opt,
        save_opt,
    ),
    Key(
        {
            **SHARED,
            "text_config.feed_forward_proj": None,
            "text_config.num_decoder_layers": None,
            **under_key("text_config", T5),
        },
        ("language_model",),
        load_t5,
        save_t5,
    ),
    Key(
        {
            "text_config.model_type": "opt",
            "text_config.tie_word_embeddings": None,
            "text_config.scale_decoder_outputs": None,
        },
        ("language_model",),
        load_tied,
        lambda model: (kind_of(model), is_opt(model)),
    ),
    # transformers looks for tokens of the text that stand for images.
    Key(
        {"image_token_index": None},
        ("language_model",),
        lambda index: (),
        lambda model: (min(IMAGE_TOKENS[kind_of(model)], model["config"]["vocabulary_size"] - 1),),
    ),
    fixed("vision_config.hidden_act", "gelu"),
    fixed("vision_config.qkv_bias", True),
    fixed("qformer_config.hidden_act", "gelu"),
    only("qformer_config.use_qformer_text_input", False),
    only("text_config.activation_function", "relu"),
    only("text_config.do_layer_norm_before", True),
    only("text_config._remove_final_layer_norm", False),
    only("text_config.enable_bias", True),
    only("text_config.layer_norm_elementwise_affine", True),
    only("text_config.relative_attention_num_buckets", BUCKETS),
    only("text_config.relative_attention_max_distance", MAX_DISTANCE),
)


def of_kind(check: Any, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Rules of one kind of language model."""
    return tuple(replace(one, when={**one.when, "language_model": check}) for one in rules)


def attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *layer(f"{theirs}.attention.query", f"{ours}.attention.query"),
        *layer(f"{theirs}.attention.key", f"{ours}.attention.key"),
        *layer(f"{theirs}.attention.value", f"{ours}.attention.value"),
        *layer(f"{theirs}.output.dense", f"{ours}.attention.attention_output"),
        *layer(f"{theirs}.output.LayerNorm", f"{ours}.layer_norm"),
    )


def gated(theirs: str) -> tuple[Rule, ...]:
    return (
        rule(f"{theirs}.layer_norm.weight", "layer_norm.weight"),
        rule(f"{theirs}.DenseReluDense.wi_0.weight", "input_projector.weight"),
        rule(f"{theirs}.DenseReluDense.wi_1.weight", "gate_projector.weight"),
        rule(f"{theirs}.DenseReluDense.wo.weight", "output_projector.weight"),
    )


VISION_BLOCK = (
    *layer("layer_norm1", "ln_1"),
    *layer("layer_norm2", "ln_2"),
    rule("self_attn.qkv.weight", ("mha.query.weight", "mha.key.weight", "mha.value.weight"), FUSE),
    rule("self_attn.qkv.bias", ("mha.query.bias", "mha.key.bias", "mha.value.bias"), FUSE),
    *layer("self_attn.projection", "mha.attention_output"),
    *layer("mlp.fc1", "mlp.dense_1"),
    *layer("mlp.fc2", "mlp.dense_2"),
)
TOWER = (
    rule("embeddings.class_embedding", "patching_and_embedding.class_token"),
    *layer("embeddings.patch_embedding", "patching_and_embedding.patch_embedding"),
    rule(
        "embeddings.position_embedding",
        "patching_and_embedding.position_embedding.weight",
        BATCHED,
    ),
    *under("encoder.layers.{}.", "encoder.encoder_layers.{}.", VISION_BLOCK),
    *layer("post_layernorm", "encoder.ln"),
)
QFORMER_BLOCK = (
    *attention("attention", "self_attention"),
    *attention("crossattention", "cross_attention"),
    *layer("intermediate_query.dense", "intermediate_dense"),
    *layer("output_query.dense", "output_dense"),
    *layer("output_query.LayerNorm", "output_layer_norm"),
)
OPT_WEIGHTS = (
    rule("embed_tokens.weight", "embeddings_layer.token_embedding.weight"),
    rule("embed_positions.weight", "embeddings_layer.position_embedding.weight"),
    *under("layers.{}.", "transformer_layers.{}.", OPT_BLOCK),
    *layer("final_layer_norm", "layer_norm"),
)
T5_WEIGHTS = (
    rule("shared.weight", "token_embedding.weight"),
    rule("lm_head.weight", "lm_head.weight"),
    *under(
        "encoder.block.{}.",
        "encoder_transformer_layers.{}.",
        (*SELF_ATTENTION, *gated("layer.1")),
    ),
    rule("encoder.final_layer_norm.weight", "encoder_output_layer_norm.weight"),
    *under(
        "decoder.block.{}.",
        "decoder_transformer_layers.{}.",
        (*SELF_ATTENTION, *CROSS_ATTENTION, *gated("layer.2")),
    ),
    rule("decoder.final_layer_norm.weight", "decoder_output_layer_norm.weight"),
)
BLIP2 = Table(
    model_types=("blip-2",),
    backbone=BLIP2Backbone,
    architecture="Blip2ForConditionalGeneration",
    config=CONFIG,
    ignored=(
        "image_text_hidden_size",
        "initializer_factor",
        "is_encoder_decoder",
        "tie_word_embeddings",
        "use_decoder_only_language_model",
        "qformer_config.attention_probs_dropout_prob",
        "qformer_config.encoder_hidden_size",
        "qformer_config.max_position_embeddings",
        "qformer_config.vocab_size",
        "text_config.activation_dropout",
        "text_config.attention_dropout",
        "text_config.classifier_dropout",
        "text_config.decoder_start_token_id",
        "text_config.dense_act_fn",
        "text_config.init_std",
        "text_config.is_decoder",
        "text_config.is_gated_act",
        "text_config.layerdrop",
        "text_config.n_positions",
        "vision_config.attention_dropout",
    ),
    weights=(
        *under("vision_model.", "vision_encoder.", TOWER),
        rule("query_tokens", "qformer.query_tokens_layer.query_tokens"),
        *layer("qformer.layernorm", "qformer.layer_norm"),
        *under("qformer.encoder.layer.{}.", "qformer.transformer_layers.{}.", QFORMER_BLOCK),
        *layer("language_projection", "language_model.language_projection"),
        *of_kind(is_opt, under("language_model.model.decoder.", "language_model.", OPT_WEIGHTS)),
        *of_kind(is_t5, under("language_model.", "language_model.", T5_WEIGHTS)),
    ),
    dropped=(
        "language_model.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        "language_model.model.decoder.version",
        "qformer.embeddings.position_ids",
    ),
    tied={
        "language_model.lm_head.weight": "language_model.model.decoder.embed_tokens.weight",
        "language_model.encoder.embed_tokens.weight": "language_model.shared.weight",
        "language_model.decoder.embed_tokens.weight": "language_model.shared.weight",
    },
)
TABLES = (BLIP2,)
