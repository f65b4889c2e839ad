"""Gemma 4, of text, and with images and sound."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...backbones.gemma4 import Gemma4AudioEncoder, Gemma4Backbone, Gemma4VisionEncoder
from ...backbones.gemma4.text import key_value_sources
from ...backbones.layers.masks import FULL, SLIDING
from ..checkpoints.table import (
    TRANSPOSE,
    Key,
    Operation,
    Rule,
    Table,
    constant,
    fixed,
    key,
    layer,
    like,
    only,
    rule,
    under,
    within,
)
from ..checkpoints.transformers import GENERIC
from .gemma import BLOCK, as_float

LAYERS, PERIOD = 30, 6
IMAGE_SIZE = 896  # of all published models
TYPES: dict[str, Any] = {"layer_types": None, "num_hidden_layers": LAYERS}


def types_of(types: Sequence[str] | None, count: int, period: int | None = None) -> list[str]:
    """As transformers understands them: the last layer is always global."""
    found = types or [SLIDING if (i + 1) % (period or PERIOD) else FULL for i in range(count)]
    return [*found[: count - 1], FULL]


def save_types(types: list[str], pattern: int, count: int, windows: bool) -> tuple[list[str]]:
    types = types[:count]
    if types[-1:] != [FULL]:
        raise ValueError("the last of the layer_types is not full_attention")
    if not windows and SLIDING in types:
        raise ValueError("use_sliding_window_attention is False, but there are local layers")
    return (types,)


def load_global(
    head_dim: int,
    heads: int,
    global_dim: int | None,
    global_heads: int | None,
    same: bool,
    of_layers: Mapping[str, Mapping[str, int]] | None,
    types: Sequence[str] | None,
    count: int,
    rope: Mapping[str, Any] | None,
) -> tuple[int, int | None]:
    """Heads of the global layers, which newer files tell for each layer."""
    if of_layers is not None:
        others = [dict(of_layers.get(str(i), {})) for i in range(count)]
        known = [other for other, kind in zip(others, types_of(types, count)) if kind == FULL]
        wanted = [known[0] if kind == FULL else {} for kind in types_of(types, count)]
        if others != wanted or known[0].keys() - {"head_dim", "num_key_value_heads"}:
            raise ValueError(f"per_layer_config is {of_layers}; only global layers may differ")
        global_dim = known[0].get("head_dim")
        global_heads = known[0].get("num_key_value_heads")
        if not same and global_heads not in (None, heads):
            raise ValueError(
                f"per_layer_config has {global_heads} key-value heads; other ones than {heads} "
                "can be computed with attention_k_eq_v only"
            )
    check_pairs(global_dim or head_dim, load_rope(rope)[2])
    return global_dim or head_dim, (global_heads or heads) if same else None


def save_global(
    global_dim: int | None, global_heads: int | None, head_dim: int, heads: int, part: float
) -> tuple[Any, ...]:
    check_pairs(global_dim or head_dim, part)
    same = global_heads is not None
    return head_dim, heads, global_dim or head_dim, global_heads, same


def check_pairs(head_dim: int, part: float) -> None:
    if int(part * head_dim) < 2:
        raise ValueError(
            f"partial_rotary_factor is {part}: of a head's {head_dim} dimensions transformers "
            "turns none, KerasHub two"
        )


def save_sharing(shared: int, types: list[str], count: int) -> tuple[int]:
    sources = key_value_sources([kind == FULL for kind in types[:count]], shared)
    if shared == count or len(sources) < shared:
        raise ValueError(
            f"num_kv_shared_layers is {shared}; there must be local and global layers before them"
        )
    return (shared,)


def load_rope(parameters: Mapping[str, Any] | None) -> tuple[float, ...]:
    if parameters is None:
        return 1e6, 1.0, 0.25, 1e4, 1.0
    found: list[float] = []
    for kind, theta, known in ((FULL, 1e6, "proportional"), (SLIDING, 1e4, "")):
        given = dict(parameters.get(kind) or {})
        rope = given.pop("rope_type", "default")
        theta = given.pop("rope_theta", theta)
        part = given.pop("partial_rotary_factor", 1.0)
        factor = given.pop("factor", 1.0)
        if given or rope not in ("default", "linear", known):
            raise ValueError(f"rope_parameters.{kind} is {parameters[kind]}")
        # What a type does not know has no effect.
        found += [theta, 1.0 if rope == "default" else factor]
        if kind == FULL:
            found.append(part if rope == known else 1.0)
    return tuple(found)


def save_rope(
    theta: float | None, factor: float, part: float, local_theta: float | None, local: float
) -> tuple[dict[str, Any]]:
    whole = {"rope_type": "proportional", "partial_rotary_factor": float(part)}
    sliding = {"rope_type": "default" if local == 1 else "linear"}
    return (
        {
            FULL: {**whole, "rope_theta": theta or 1e6, "factor": float(factor)},
            SLIDING: {**sliding, "rope_theta": local_theta or 1e4, "factor": float(local)},
        },
    )


def load_directions(kind: str | None, types: Any, count: int) -> tuple[bool, bool]:
    if kind == "all" and SLIDING in types_of(types, count):
        raise ValueError(
            "use_bidirectional_attention is 'all'; windows to both sides are not there"
        )
    return kind == "all", kind == "vision"


def save_directions(
    everywhere: bool, images: bool, types: list[str], count: int
) -> tuple[str | None]:
    if everywhere and SLIDING in types[:count]:
        raise ValueError(
            "use_bidirectional_attention is True; transformers has windows then, KerasHub has none"
        )
    # In transformers the tokens of an image see each other within the window only; it is wider
    # than any image of the published models.
    return ("all" if everywhere else "vision" if images else None,)


LAYER_TYPES = Key(
    TYPES,
    ("layer_types", "sliding_window_pattern", "num_layers", "use_sliding_window_attention"),
    lambda types, count: (types_of(types, count), PERIOD, count, True),
    save_types,
)
ROPE = Key(
    {"rope_parameters": None},
    (
        "global_rope_wavelength",
        "global_rope_scaling_factor",
        "global_rope_partial_rotary_factor",
        "local_rope_wavelength",
        "local_rope_scaling_factor",
    ),
    load_rope,
    save_rope,
)
CONFIG = (
    key("vocab_size", "vocabulary_size", 262144),
    key("num_hidden_layers", "num_layers", LAYERS),
    key("num_attention_heads", "num_query_heads", 8),
    key("num_key_value_heads", "num_key_value_heads", 4),
    key("hidden_size", "hidden_dim", 2304),
    key("intermediate_size", "intermediate_dim", 9216),
    key("head_dim", "head_dim", 256),
    key("attention_dropout", "dropout", 0.0),
    key("final_logit_softcapping", "final_logit_soft_cap", None, save=as_float),
    key("rms_norm_eps", "layer_norm_epsilon", 1e-6),
    key("sliding_window", "sliding_window_size", 512),
    key("use_double_wide_mlp", "use_double_wide_mlp", False),
    fixed("hidden_activation", "gelu_pytorch_tanh"),
    only("attention_bias", False),
    only("attn_logit_softcapping", None),
    only("tie_word_embeddings", True),
    only("pad_token_id", 0, None),
    constant(
        attention_logit_soft_cap=None,
        is_embedding_model=False,
        pooling_intermediate_dim=None,
        embedding_dim=None,
    ),
    LAYER_TYPES,
    Key(
        {
            "head_dim": 256,
            "num_key_value_heads": 4,
            "global_head_dim": 512,
            "num_global_key_value_heads": None,
            "attention_k_eq_v": False,
            "per_layer_config": None,
            **TYPES,
            "rope_parameters": None,
        },
        (
            "global_head_dim",
            "num_global_key_value_heads",
            "head_dim",
            "num_key_value_heads",
            "global_rope_partial_rotary_factor",
        ),
        load_global,
        save_global,
    ),
    Key(
        {"num_kv_shared_layers": 0},
        ("num_kv_shared_layers", "layer_types", "num_layers"),
        lambda shared: (shared,),
        save_sharing,
    ),
    ROPE,
    Key(
        {"use_bidirectional_attention": None, **TYPES},
        (
            "use_bidirectional_attention",
            "use_vision_bidirectional_attention",
            "layer_types",
            "num_layers",
        ),
        load_directions,
        save_directions,
    ),
    Key(
        {"hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262144},
        ("hidden_size_per_layer_input", "vocab_size_per_layer_input", "vocabulary_size"),
        lambda width, words: (width or 0, words),
        lambda width, words, vocabulary: (width, words or vocabulary),
    ),
    Key(
        {
            "enable_moe_block": False,
            "num_experts": None,
            "moe_intermediate_size": None,
            "top_k_experts": None,
        },
        ("enable_moe_block", "num_experts", "expert_intermediate_dim", "num_experts_per_token"),
        lambda enabled, many, width, chosen: (enabled, many, width, chosen or 8),
        lambda *values: values,
    ),
)
IGNORED = ("max_position_embeddings",)

# The towers

VISION_KEYS: dict[str, tuple[str, Any]] = {
    "patch_size": ("patch_size", 16),
    "num_attention_heads": ("num_heads", 12),
    "hidden_size": ("hidden_dim", 768),
    "num_hidden_layers": ("num_layers", 16),
    "intermediate_size": ("intermediate_dim", 3072),
    "head_dim": ("head_dim", 64),
    "num_key_value_heads": ("num_key_value_heads", 12),
    "pooling_kernel_size": ("pool_size", 3),
    "position_embedding_size": ("position_embedding_size", 10240),
    "rms_norm_eps": ("layer_norm_epsilon", 1e-6),
    "attention_dropout": ("dropout", 0.0),
    "use_clipped_linears": ("use_clipped_linears", False),
    "standardize": ("standardize", False),
}
VISION_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False,),
}
AUDIO_KEYS: dict[str, tuple[str, Any]] = {
    "hidden_size": ("hidden_size", 1024),
    "num_attention_heads": ("num_heads", 8),
    "num_hidden_layers": ("num_layers", 12),
    "attention_chunk_size": ("chunk_size", 12),
    "attention_context_left": ("context_left", 13),
    "attention_logit_cap": ("logit_cap", 50.0),
    "attention_invalid_logits_value": ("invalid_logit_value", -1e9),
    "conv_kernel_size": ("conv_kernel_size", 5),
    "residual_weight": ("residual_weight", 0.5),
    "gradient_clipping": ("gradient_clipping", 1e10),
    "subsampling_conv_channels": ("sscp_conv_channels", [128, 32]),
    "output_proj_dims": ("output_proj_dims", 1536),
}
AUDIO_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_context_right": (0,),
    "use_clipped_linears": (True,),
    "rms_norm_eps": (1e-6,),  # in some norms it is this number whatever the key says
}
# Of KerasHub's class, with what transformers computes.
AUDIO_CONSTANTS: dict[str, Any] = {
    "context_right": 0,
    "reduction_factor": 1,
    "sscp_kernel_sizes": [[3, 3], [3, 3]],
    "sscp_stride_sizes": [[2, 2], [2, 2]],
    "norm_eps": 1e-6,
    "sscp_norm_eps": 1e-6,
}


def read_part(
    name: str,
    given: Mapping[str, Any],
    keys: Mapping[str, tuple[str, Any]],
    fixed: Mapping[str, tuple[Any, ...]],
    ignored: Sequence[str] = (),
) -> dict[str, Any]:
    """The arguments of a tower that a model may lack."""
    unknown = [k for k in given if k not in {*keys, *fixed, *ignored, *GENERIC}]
    if unknown:
        warnings.warn(f"Keys of {name} that are not known: {', '.join(unknown)}.", stacklevel=2)
    for one, values in fixed.items():
        if given.get(one, values[0]) not in values:
            raise ValueError(f"{name}.{one} is {given[one]!r}; only {values[0]!r} can be computed")
    return {ours: given.get(theirs, default) for theirs, (ours, default) in keys.items()}


def written(
    config: Mapping[str, Any],
    keys: Mapping[str, tuple[str, Any]],
    fixed: Mapping[str, tuple[Any, ...]],
) -> dict[str, Any]:
    values = {name: like(default, config[ours]) for name, (ours, default) in keys.items()}
    return {**values, **{name: values[0] for name, values in fixed.items()}}


def check_width(name: str, width: int, hidden: int) -> None:
    if width != hidden:
        raise ValueError(f"output_dim of the {name} is {width}, not the text's {hidden}")


def load_vision(given: Mapping[str, Any] | None, hidden: int) -> tuple[Any, int | None]:
    if given is None:
        return None, None
    rope = dict(given.get("rope_parameters") or {})
    if rope.pop("rope_type", "axial") not in ("axial", "default"):
        raise ValueError(f"vision_config.rope_parameters is {given['rope_parameters']}")
    ignored = ("rope_parameters", "max_position_embeddings", "default_output_length")
    config = read_part("vision_config", given, VISION_KEYS, VISION_FIXED, ignored)
    config |= {"image_size": IMAGE_SIZE, "output_dim": hidden}
    config["rope_max_wavelength"] = rope.get("rope_theta", 100.0)
    name = f"keras_hub>{Gemma4VisionEncoder.__name__}"
    return {"registered_name": name, "config": config}, IMAGE_SIZE


def save_vision(encoder: Mapping[str, Any] | None, size: Any, hidden: int) -> tuple[Any, ...]:
    if encoder is None:
        return None, hidden
    config = encoder["config"]
    check_width("vision_encoder", config["output_dim"], hidden)
    rope = {"rope_type": "axial", "rope_theta": config["rope_max_wavelength"]}
    keys = written(config, VISION_KEYS, VISION_FIXED)
    return {"model_type": "gemma4_vision", **keys, "rope_parameters": rope}, hidden


def check_chunks(chunk: int, left: int) -> None:
    if left < 2 or chunk not in (left - 1, left):
        raise ValueError(
            f"sound is heard in chunks of {chunk} with {left} to the left; transformers counts "
            "distances as KerasHub does only if these are equal or left is one more"
        )


def load_audio(given: Mapping[str, Any] | None, hidden: int) -> tuple[Any, int | None]:
    if given is None:
        return None, None
    config = read_part("audio_config", given, AUDIO_KEYS, AUDIO_FIXED)
    check_chunks(config["chunk_size"], config["context_left"])
    # transformers takes the first number of channels for that of the features.
    features = config["sscp_conv_channels"][0] // 4 * 4
    config |= {"input_feat_size": features, "output_dim": hidden, **AUDIO_CONSTANTS}
    name = f"keras_hub>{Gemma4AudioEncoder.__name__}"
    return {"registered_name": name, "config": config}, 750


def save_audio(encoder: Mapping[str, Any] | None, tokens: Any, hidden: int) -> tuple[Any, ...]:
    if encoder is None:
        return None, hidden
    config = encoder["config"]
    check_width("audio_encoder", config["output_dim"], hidden)
    for name, value in AUDIO_CONSTANTS.items():
        if config[name] != value:
            raise ValueError(
                f"{name} of the audio_encoder is {config[name]}; transformers has {value}"
            )
    if config["output_proj_dims"] is None:
        raise ValueError("output_proj_dims of the audio_encoder is None")
    features, channels = config["input_feat_size"], config["sscp_conv_channels"][0]
    if features != channels // 4 * 4:
        raise ValueError(
            f"input_feat_size of the audio_encoder is {features}; transformers takes it for the "
            f"{channels} channels of the first convolution"
        )
    check_chunks(config["chunk_size"], config["context_left"])
    keys = written(config, AUDIO_KEYS, AUDIO_FIXED)
    return {"model_type": "gemma4_audio", **keys}, hidden


def save_tokens(size: int, vision: Any, audio: Any) -> tuple[int, ...]:
    """The models are told where images stand, but transformers looks for tokens of the text."""
    if vision is None and audio is None:
        raise ValueError("vision_encoder and audio_encoder are None")
    return min(258880, size - 1), min(258881, size - 2), min(258884, size - 3)


PLACES = Key(
    {"image_token_id": 258880, "audio_token_id": 258881, "video_token_id": 258884},
    ("vocabulary_size", "vision_encoder", "audio_encoder"),
    lambda *ids: (),
    save_tokens,
)
TOWERS = (
    Key(
        {"vision_config": None, "text_config.hidden_size": 2304},
        ("vision_encoder", "image_size", "hidden_dim"),
        load_vision,
        save_vision,
    ),
    Key(
        {"audio_config": None, "text_config.hidden_size": 2304},
        ("audio_encoder", "num_audio_tokens_per_clip", "hidden_dim"),
        load_audio,
        save_audio,
    ),
    PLACES,
)

# Weights

SCALAR = Operation(
    save=lambda tensors: [tensor.reshape(1) for tensor in tensors],
    load=lambda tensors, shapes: [tensor.reshape(()) for tensor in tensors],
)
# Two of ours, each transposed, are one of theirs, one after the other.
GATED = Operation(
    save=lambda tensors: [torch.cat([tensor.mT for tensor in tensors], dim=1)],
    load=lambda tensors, shapes: [half.mT for half in tensors[0].chunk(2, dim=1)],
)
EXPERTS = "moe_expert_bank"
TEXT = (
    *(
        rule(f"{theirs}.weight", f"{ours}.weight")
        for theirs, ours in (
            ("embed_tokens", "token_embedding"),
            ("norm", "final_normalization"),
            ("embed_tokens_per_layer", "per_layer_token_embedding"),
            ("per_layer_model_projection", "per_layer_model_projection"),
            ("per_layer_projection_norm", "per_layer_projection_norm"),
        )
    ),
    *under(
        "layers.{}.",
        "transformer_layers.{}.",
        (
            *BLOCK,
            *(
                rule(f"{theirs}.weight", f"{ours}.weight")
                for theirs, ours in (
                    ("self_attn.q_norm", "attention.query_norm"),
                    ("self_attn.k_norm", "attention.key_norm"),
                    ("post_attention_layernorm", "post_attention_norm"),
                    ("pre_feedforward_layernorm", "pre_ffw_norm"),
                    ("post_feedforward_layernorm", "post_ffw_norm"),
                    ("pre_feedforward_layernorm_2", "pre_ffw_norm_moe"),
                    ("post_feedforward_layernorm_1", "post_ffw_norm_dense"),
                    ("post_feedforward_layernorm_2", "post_ffw_norm_moe_path"),
                    ("router.proj", "moe_router.proj"),
                    ("per_layer_input_gate", "per_layer_input_gate"),
                    ("per_layer_projection", "per_layer_up_proj"),
                    ("post_per_layer_input_norm", "post_per_layer_input_norm"),
                )
            ),
            rule("layer_scalar", "layer_scalar", SCALAR),
            rule("router.scale", "moe_router.per_dim_scale"),
            rule("router.per_expert_scale", f"{EXPERTS}.per_expert_scale"),
            rule("experts.gate_up_proj", (f"{EXPERTS}.gate_proj", f"{EXPERTS}.up_proj"), GATED),
            rule("experts.down_proj", f"{EXPERTS}.down_proj", TRANSPOSE),
        ),
    ),
)
# Published files have keys and values of layers that use others'.
UNUSED = tuple(f"layers.{{}}.self_attn.{name}.weight" for name in ("k_proj", "v_proj", "k_norm"))


def clipped(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A projection with its bounds."""
    bounds = (f"{side}_{end}" for side in ("input", "output") for end in ("min", "max"))
    return (
        rule(f"{theirs}.linear.weight", f"{ours}.dense.weight"),
        *(rule(f"{theirs}.{bound}", f"{ours}.{bound}") for bound in bounds),
    )


VISION = (
    *under(
        "vision_tower.",
        "vision_encoder.image_encoder.",
        (
            rule("patch_embedder.input_proj.weight", "patch_embedder.input_proj.weight"),
            rule(
                "patch_embedder.position_embedding_table",
                "patch_embedder.position_embedding_table",
            ),
            *under(
                "encoder.layers.{}.",
                "encoder_blocks.{}.",
                (
                    *clipped("self_attn.q_proj", "attention.query"),
                    *clipped("self_attn.k_proj", "attention.key"),
                    *clipped("self_attn.v_proj", "attention.value"),
                    *clipped("self_attn.o_proj", "attention.attention_output"),
                    *clipped("mlp.gate_proj", "ffw_gating"),
                    *clipped("mlp.up_proj", "ffw_gating_2"),
                    *clipped("mlp.down_proj", "ffw_linear"),
                    *(
                        rule(f"{theirs}.weight", f"{ours}.weight")
                        for theirs, ours in (
                            ("self_attn.q_norm", "attention.query_norm"),
                            ("self_attn.k_norm", "attention.key_norm"),
                            ("input_layernorm", "pre_attention_norm"),
                            ("post_attention_layernorm", "post_attention_norm"),
                            ("pre_feedforward_layernorm", "pre_ffw_norm"),
                            ("post_feedforward_layernorm", "post_ffw_norm"),
                        )
                    ),
                ),
            ),
        ),
    ),
    rule("vision_tower.std_bias", "vision_encoder.vision_output_encoder.std_bias"),
    rule("vision_tower.std_scale", "vision_encoder.vision_output_encoder.std_scale"),
    rule(
        "embed_vision.embedding_projection.weight",
        "vision_encoder.vision_output_encoder.vision_input_projection.weight",
    ),
)


def feed_forward(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        rule(f"{theirs}.pre_layer_norm.weight", f"{ours}.pre_norm.weight"),
        *clipped(f"{theirs}.ffw_layer_1", f"{ours}.ffw_1"),
        *clipped(f"{theirs}.ffw_layer_2", f"{ours}.ffw_2"),
        rule(f"{theirs}.post_layer_norm.weight", f"{ours}.post_norm.weight"),
    )


AUDIO = (
    *under(
        "audio_tower.",
        "audio_encoder.",
        (
            *under(
                "subsample_conv_projection.",
                "subsample_conv_projection.",
                (
                    rule("layer0.conv.weight", "conv_0.conv.weight"),
                    rule("layer0.norm.weight", "conv_0.norm.weight"),
                    rule("layer1.conv.weight", "conv_1.conv.weight"),
                    rule("layer1.norm.weight", "conv_1.norm.weight"),
                    rule("input_proj_linear.weight", "input_proj.weight"),
                ),
            ),
            *under(
                "layers.{}.",
                "conformer_blocks.{}.",
                (
                    *feed_forward("feed_forward1", "ffw_start"),
                    *feed_forward("feed_forward2", "ffw_end"),
                    *clipped("self_attn.q_proj", "attention.attn.q_proj"),
                    *clipped("self_attn.k_proj", "attention.attn.k_proj"),
                    *clipped("self_attn.v_proj", "attention.attn.v_proj"),
                    *clipped("self_attn.post", "attention.out_proj"),
                    rule("self_attn.per_dim_scale", "attention.attn.per_dim_scale"),
                    rule(
                        "self_attn.relative_k_proj.weight", "attention.attn.rpe.pos_proj", TRANSPOSE
                    ),
                    rule("norm_pre_attn.weight", "attention.pre_attn_norm.weight"),
                    rule("norm_post_attn.weight", "attention.post_norm.weight"),
                    rule("lconv1d.pre_layer_norm.weight", "lconv.pre_norm.weight"),
                    *clipped("lconv1d.linear_start", "lconv.linear_start"),
                    rule("lconv1d.depthwise_conv1d.weight", "lconv.depthwise_conv.weight"),
                    rule("lconv1d.conv_norm.weight", "lconv.conv_norm.weight"),
                    *clipped("lconv1d.linear_end", "lconv.linear_end"),
                    rule("norm_out.weight", "norm.weight"),
                ),
            ),
            *layer("output_proj", "output_proj"),
        ),
    ),
    rule("embed_audio.embedding_projection.weight", "audio_encoder.audio_output_projection.weight"),
)


def refuse_assistant(size: Any) -> tuple[()]:
    raise ValueError("an assistant is written with projections that are no part of a backbone")


PARTS = ("language_model", "vision_tower", "audio_tower", "embed_vision", "embed_audio")

GEMMA4_TEXT = Table(
    model_types=("gemma4_text",),
    backbone=Gemma4Backbone,
    architecture="Gemma4ForCausalLM",
    config=(
        *CONFIG,
        constant(vision_encoder=None, audio_encoder=None),
        Key({}, ("image_size",), lambda: (None,), lambda size: ()),
    ),
    ignored=IGNORED,
    weights=under("model.", "", TEXT),
    renames=tuple(
        (f"{name}.*", f"model.{name}.*")
        for name in (
            "layers",
            "norm",
            "embed_tokens",
            "embed_tokens_per_layer",
            "per_layer_model_projection",
            "per_layer_projection_norm",
        )
    ),
    dropped=(*(f"model.{name}" for name in UNUSED), "score.*"),
    tied={"lm_head.weight": "model.embed_tokens.weight"},
)
GEMMA4 = Table(
    model_types=("gemma4",),
    backbone=Gemma4Backbone,
    architecture="Gemma4ForConditionalGeneration",
    config=(
        *within("text_config.", CONFIG),
        fixed("text_config.model_type", "gemma4_text"),
        only("tie_word_embeddings", True),
        *TOWERS,
    ),
    ignored=(
        *(f"text_config.{name}" for name in IGNORED),
        "boi_token_id",
        "eoi_token_id",
        "boa_token_id",
        "eoa_token_id",
        "eoa_token_index",
        "vision_soft_tokens_per_image",
    ),
    weights=under("model.", "", (*under("language_model.", "", TEXT), *VISION, *AUDIO)),
    renames=tuple((f"{name}.*", f"model.{name}.*") for name in PARTS),
    dropped=(*(f"model.language_model.{name}" for name in UNUSED), "score.*"),
    tied={"lm_head.weight": "model.language_model.embed_tokens.weight"},
)
# A draft model: what is around its backbone has no part here.
GEMMA4_ASSISTANT = Table(
    model_types=("gemma4_assistant",),
    backbone=Gemma4Backbone,
    architecture="Gemma4AssistantForCausalLM",
    config=(
        *within("text_config.", CONFIG),
        fixed("text_config.model_type", "gemma4_text"),
        only("tie_word_embeddings", True),
        constant(vision_encoder=None, audio_encoder=None),
        Key({}, ("image_size",), lambda: (None,), refuse_assistant),
    ),
    ignored=(
        *(f"text_config.{name}" for name in IGNORED),
        *("backbone_hidden_size", "use_ordered_embeddings"),
        *("num_centroids", "centroid_intermediate_top_k"),
        *(f"{kind}_token_id" for kind in ("image", "audio", "boi", "eoi", "boa", "eoa")),
    ),
    weights=under("model.", "", TEXT),
    dropped=(
        *(f"model.{name}" for name in UNUSED),
        *("pre_projection.*", "post_projection.*", "masked_embedding.*"),
    ),
    tied={"lm_head.weight": "model.embed_tokens.weight"},
)
TABLES = (GEMMA4_TEXT, GEMMA4, GEMMA4_ASSISTANT)
