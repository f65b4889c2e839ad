"""Gemma 3, of text and of images, and what later tables share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...backbones.gemma3 import Gemma3Backbone, Gemma3VisionEncoder
from ..checkpoints.table import (
    TRANSPOSE,
    Key,
    Rule,
    Table,
    assumed,
    constant,
    fixed,
    heads,
    key,
    layer,
    only,
    rule,
    under,
    within,
)
from .gemma import (
    ACTIVATIONS,
    BLOCK,
    DROPPED,
    TIED,
    as_float,
    load_query_scale,
    save_query_scale,
)
from .gemma import RENAMES as TEXT_RENAMES

IMAGE_TOKEN = 262144
PATTERN = 6


def load_layer_types(kinds: Any, pattern: int | None, other: int | None, count: int) -> tuple[bool]:
    """Whether five of six layers have windows; or none has."""
    period = pattern or other or PATTERN
    local = ["sliding_attention" if (i + 1) % PATTERN else "full_attention" for i in range(count)]
    if kinds is None and period != PATTERN:
        raise ValueError(f"sliding_window_pattern is {period}; only {PATTERN} can be computed")
    if kinds in (None, local):
        return (True,)
    if kinds != ["full_attention"] * count:
        raise ValueError("layer_types are not five times sliding_attention, then full_attention")
    return (False,)


def save_layer_types(windows: bool, count: int) -> tuple[list[str]]:
    return (
        [
            "sliding_attention" if windows and (i + 1) % PATTERN else "full_attention"
            for i in range(count)
        ],
    )


def load_window(size: int, bidirectional: bool | None) -> tuple[int, bool]:
    # A window to both sides is there as wide before as after the query.
    return (size // 2 * 2 + 1 if bidirectional else size), bool(bidirectional)


def save_window(size: int, bidirectional: bool, windows: bool) -> tuple[int, bool]:
    if bidirectional and windows and size % 2 == 0:
        raise ValueError(
            f"sliding_window_size is {size}; transformers has windows to both sides only of odd "
            "sizes, with as many keys before as after the query"
        )
    return size, bidirectional


def scaling(theirs: str, ours: str, theta: float, *older: str) -> Key:
    """The factor by which positions are divided; `older` are its names in older files."""

    def load(kind: str, wavelength: float, factor: float | None, *others: Any) -> tuple[float]:
        if wavelength != theta:
            raise ValueError(f"{theirs}.rope_theta is {wavelength}; only {theta} can be computed")
        old_factor, *old_kinds = others or (None,)
        kinds = {kind, *old_kinds} - {None, "default"}
        if kinds - {"linear"}:
            raise ValueError(f"the rope_type of {theirs} is {kinds}; only linear can be computed")
        return (factor or old_factor or 1.0,)

    def save(factor: float) -> tuple[Any, ...]:
        return ("default", theta) if factor == 1 else ("linear", theta, float(factor))

    names = {f"{theirs}.rope_type": "default", f"{theirs}.rope_theta": theta}
    return Key({**names, f"{theirs}.factor": None, **dict.fromkeys(older)}, (ours,), load, save)


CONFIG = (
    key("vocab_size", "vocabulary_size", 262208),
    key("num_hidden_layers", "num_layers", 26),
    heads("num_attention_heads", "num_query_heads", "hidden_dim", 8),
    key("num_key_value_heads", "num_key_value_heads", 4),
    key("hidden_size", "hidden_dim", 2304),
    key("intermediate_size", "intermediate_dim", 9216),
    key("head_dim", "head_dim", 256),
    key("attention_dropout", "dropout", 0.0),
    only("attn_logit_softcapping", None),  # transformers reads it but does not apply it
    key("final_logit_softcapping", "final_logit_soft_cap", None, save=as_float),
    assumed("rms_norm_eps", 1e-6),
    fixed("hidden_activation", *ACTIVATIONS),
    only("attention_bias", False),
    only("tie_word_embeddings", True),
    only("rope_theta", 1e6),
    only("rope_local_base_freq", 1e4),
    constant(
        attention_logit_soft_cap=None,
        layer_norm_epsilon=1e-6,
        use_query_key_norm=True,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
        is_embedding_model=False,
        pooling_intermediate_dim=None,
        embedding_dim=None,
    ),
    Key(
        {
            "layer_types": None,
            "sliding_window_pattern": None,
            "_sliding_window_pattern": None,
            "num_hidden_layers": 26,
        },
        ("use_sliding_window_attention", "num_layers"),
        load_layer_types,
        save_layer_types,
    ),
    Key(
        {"sliding_window": 4096, "use_bidirectional_attention": False},
        (
            "sliding_window_size",
            "use_bidirectional_attention",
            "use_sliding_window_attention",
        ),
        load_window,
        save_window,
    ),
    scaling(
        "rope_parameters.full_attention",
        "global_rope_scaling_factor",
        1e6,
        "rope_scaling.factor",
        "rope_scaling.rope_type",
        "rope_scaling.type",
    ),
    scaling("rope_parameters.sliding_attention", "local_rope_scaling_factor", 1e4),
    Key(
        {
            "query_pre_attn_scalar": 256,
            "head_dim": 256,
            "hidden_size": 2304,
            "num_attention_heads": 8,
        },
        ("query_head_dim_normalize", "head_dim", "hidden_dim", "num_query_heads"),
        load_query_scale,
        save_query_scale,
    ),
)
IGNORED = ("cache_implementation", "max_position_embeddings")
TEXT_BLOCK = (
    *BLOCK,
    rule("self_attn.q_norm.weight", "attention.query_norm.weight"),
    rule("self_attn.k_norm.weight", "attention.key_norm.weight"),
    rule("post_attention_layernorm.weight", "post_attention_norm.weight"),
    rule("pre_feedforward_layernorm.weight", "pre_ffw_norm.weight"),
    rule("post_feedforward_layernorm.weight", "post_ffw_norm.weight"),
)
TEXT = (
    rule("model.embed_tokens.weight", "token_embedding.weight"),
    *under("model.layers.{}.", "transformer_layers.{}.", TEXT_BLOCK),
    rule("model.norm.weight", "final_normalization.weight"),
)

# The vision tower

VISION_KEYS = {
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 16),
    "num_attention_heads": ("num_heads", 12),
    "hidden_size": ("hidden_dim", 768),
    "num_hidden_layers": ("num_layers", 12),
    "intermediate_size": ("intermediate_dim", 3072),
}


def load_vision(tokens: int, output_dim: int, *sizes: int) -> tuple[dict[str, Any], int]:
    config = {ours: size for (ours, _), size in zip(VISION_KEYS.values(), sizes)}
    width = config["image_size"] // config["patch_size"]
    config |= {"output_dim": output_dim, "pool_size": width // int(tokens**0.5)}
    name = f"keras_hub>{Gemma3VisionEncoder.__name__}"
    return {"registered_name": name, "config": config}, config["image_size"]


def save_vision(encoder: Mapping[str, Any] | None, *others: Any) -> tuple[Any, ...]:
    """Keys for a serialized vision encoder; `others` are the image's size and the text's width."""
    if encoder is None:
        raise ValueError("vision_encoder is None")
    config = encoder["config"]
    width = config["image_size"] // config["patch_size"]
    side = width // config["pool_size"]
    if width // side != config["pool_size"]:
        raise ValueError(
            f"pool_size is {config['pool_size']}; transformers makes {side} of {width} patches a "
            f"side by a pool_size of {width // side}"
        )
    if config["layer_norm_epsilon"] != 1e-6:
        raise ValueError(
            f"layer_norm_epsilon of the vision_encoder is {config['layer_norm_epsilon']}; "
            "transformers has it in all layers, which compute with 1e-06"
        )
    if others != (config["image_size"], config["output_dim"])[: len(others)]:
        raise ValueError(f"the vision_encoder does not fit image_size and width {others}")
    sizes = (config[ours] for ours, _ in VISION_KEYS.values())
    return (side**2, config["output_dim"], *sizes)


def check_image_window(window: int, windows: bool, encoder: Mapping[str, Any] | None) -> tuple[()]:
    if windows and encoder is not None:
        config = encoder["config"]
        tokens = (config["image_size"] // config["patch_size"] // config["pool_size"]) ** 2
        if window < tokens:
            raise ValueError(
                f"sliding_window_size is {window}, smaller than an image of {tokens} tokens; "
                "transformers lets its tokens look ahead farther"
            )
    return ()


def vision_config(prefix: str, text: str, ours: tuple[str, ...]) -> tuple[Key, ...]:
    """Keys of a vision tower; `text` is the key of the text's width."""
    names = {f"{prefix}vision_config.{name}": size for name, (_, size) in VISION_KEYS.items()}
    return (
        Key(
            {f"{prefix}mm_tokens_per_image": 256, text: 2304, **names},
            ours,
            load_vision,
            save_vision,
        ),
        fixed(f"{prefix}vision_config.model_type", "siglip_vision_model"),
        fixed(f"{prefix}vision_config.hidden_act", "gelu_pytorch_tanh"),
        fixed(f"{prefix}vision_config.num_channels", 3),
        assumed(f"{prefix}vision_config.layer_norm_eps", 1e-6),
        Key({f"{prefix}vision_config.vision_use_head": True}, (), lambda _: (), lambda: (False,)),
    )


VISION_BLOCK = (
    *layer("self_attn.q_proj", "multi_head_attention.query_proj"),
    *layer("self_attn.k_proj", "multi_head_attention.key_proj"),
    *layer("self_attn.v_proj", "multi_head_attention.value_proj"),
    *layer("self_attn.out_proj", "multi_head_attention.out_proj"),
    *layer("layer_norm1", "layer_norm_1"),
    *layer("layer_norm2", "layer_norm_2"),
    *layer("mlp.fc1", "mlp_dense_1"),
    *layer("mlp.fc2", "mlp_dense_2"),
)
TOWER = (
    *layer("embeddings.patch_embedding", "encoder_embeddings.embedding_conv"),
    rule("embeddings.position_embedding.weight", "encoder_embeddings.position_embedding.weight"),
    *under("encoder.layers.{}.", "resblocks.{}.", VISION_BLOCK),
    *layer("post_layernorm", "encoder_layer_norm"),
)
OUTPUT = (
    rule("mm_soft_emb_norm.weight", "vision_soft_embedding_norm.weight"),
    rule("mm_input_projection_weight", "vision_input_projection.weight", TRANSPOSE),
)


def vision(prefix: str) -> tuple[Rule, ...]:
    return (
        *under(f"{prefix}vision_tower.", "vision_encoder.image_encoder.", TOWER),
        *under(f"{prefix}multi_modal_projector.", "vision_encoder.vision_output_encoder.", OUTPUT),
    )


GEMMA3_TEXT = Table(
    model_types=("gemma3_text",),
    backbone=Gemma3Backbone,
    architecture="Gemma3ForCausalLM",
    config=(*CONFIG, constant(vision_encoder=None, image_size=None)),
    ignored=IGNORED,
    weights=TEXT,
    renames=TEXT_RENAMES,
    dropped=DROPPED,
    tied=TIED,
)
GEMMA3 = Table(
    model_types=("gemma3",),
    backbone=Gemma3Backbone,
    architecture="Gemma3ForConditionalGeneration",
    config=(
        *within("text_config.", CONFIG),
        fixed("text_config.model_type", "gemma3_text"),
        *vision_config(
            "", "text_config.hidden_size", ("vision_encoder", "image_size", "hidden_dim")
        ),
        # The models are told where images stand, but transformers looks for a token of the text.
        Key(
            {"image_token_index": IMAGE_TOKEN},
            ("vocabulary_size",),
            lambda index: (),
            lambda size: (min(IMAGE_TOKEN, size - 1),),
        ),
        Key(
            {},
            ("sliding_window_size", "use_sliding_window_attention", "vision_encoder"),
            tuple,
            check_image_window,
        ),
    ),
    ignored=(
        *(f"text_config.{name}" for name in IGNORED),
        "boi_token_index",
        "eoi_token_index",
        "tie_word_embeddings",
        "vision_config.attention_dropout",
    ),
    weights=(*under("language_model.", "", TEXT), *vision("")),
    renames=(
        ("model.language_model.*", "language_model.model.*"),
        ("model.*", "*"),
        ("vision_tower.vision_model.*", "vision_tower.*"),
    ),
    dropped=(
        *(f"language_model.{name}" for name in DROPPED),
        "vision_tower.head.*",
        "score.*",
    ),
    tied={
        "lm_head.weight": "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight": "language_model.model.embed_tokens.weight",
    },
)
TABLES = (GEMMA3_TEXT, GEMMA3)
