"""CLIP, with a Vision Transformer of OpenCLIP's own and its text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...backbones.clip import CLIPBackbone, CLIPTextEncoder, CLIPVisionEncoder
from ..checkpoints.table import (
    FUSE,
    TRANSPOSE,
    Key,
    Rule,
    Table,
    constant,
    key,
    layer,
    of,
    only,
    rule,
    under,
    within,
)
from ..transformers.clip import ATTENTION, NUMBERED_POSITIONS, SCALAR, load_shape
from ..transformers.vit import side


def absent(theirs: str, reason: str, *values: Any) -> Key:
    """As `only`, for what makes another model than KerasHub's, and why."""

    def check(value: Any) -> tuple[()]:
        if value not in values:
            raise ValueError(f"{theirs} is {value!r}: {reason}")
        return ()

    return Key({theirs: values[0]}, (), check, lambda: ())


def read(theirs: Mapping[str, Any], *ours: str, load: Any) -> Key:
    """Keys that are read only."""
    return Key(theirs, ours, load, lambda *values: ())


def load_depth(layers: Any) -> Any:
    if isinstance(layers, (list, tuple)):
        raise ValueError(f"vision_cfg.layers is {layers}: a ResNet, not a Vision Transformer")
    return layers


def load_activations(quick: bool) -> tuple[str, str]:
    return ("quick_gelu" if quick else "gelu",) * 2


def check_pooling(kind: str, end: int | None, size: int) -> tuple[()]:
    """That a text is what its token of the highest id has become."""
    if kind != "argmax" and (kind, end) != ("eos", size - 1):
        raise ValueError(
            f"text_cfg.pool_type is {kind!r} with eos_id={end}; only the token of the highest id "
            f"of vocab_size={size} can be found"
        )
    return ()


# Of both towers. The default block is the only one that is a CLIP's.
BLOCK_CONFIG = (
    absent("ls_init_value", "layer scale", None),
    absent("act_kwargs", "another activation", None, {}),
    absent("norm_kwargs", "other norms", None, {}),
    only("block_type", None, "default"),
    *(
        only(name, False)
        for name in (
            *("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn"),
            "scale_fc",
        )
    ),
)
VISION_CONFIG = (
    absent("timm_model_name", "a network of timm", None),
    key("layers", "num_layers", 12, load_depth),
    key("width", "hidden_dim", 768),
    read(
        {"width": 768, "head_width": 64},
        "num_heads",
        load=lambda width, head: (width // head,),
    ),
    read(
        {"width": 768, "mlp_ratio": 4.0},
        "intermediate_dim",
        load=lambda width, ratio: (int(width * ratio),),
    ),
    key("patch_size", "patch_size", 16, side),
    read({"image_size": 224}, "image_shape", load=lambda size: load_shape(size, 3)),
    absent("attentional_pool", "pooling by attention", False),
    absent("no_ln_pre", "no norm before the blocks", False),
    only("pool_type", "tok"),
    # A table is stored either way.
    only("pos_embed_type", "learnable", "sin_cos_2d"),
    *BLOCK_CONFIG,
    constant(intermediate_output_index=None, data_format=None),
)
TEXT_CONFIG = (
    absent("hf_model_name", "a network of transformers", None),
    absent("text_arch", "another text encoder", "clip"),
    key("vocab_size", "vocabulary_size", 49408),
    key("context_length", "max_sequence_length", 77),
    read({"width": 512}, "embedding_dim", "hidden_dim", load=lambda width: (width, width)),
    key("layers", "num_layers", 12),
    key("heads", "num_heads", 8),
    read(
        {"width": 512, "mlp_ratio": 4.0},
        "intermediate_dim",
        load=lambda width, ratio: (int(width * ratio),),
    ),
    absent("embed_cls", "a class token behind the text", False),
    absent("no_causal_mask", "tokens that see what follows", False),
    read({"pool_type": "argmax", "eos_id": None, "vocab_size": 49408}, load=check_pooling),
    absent("proj_bias", "a projection with a bias", False),
    only("proj_type", "linear"),
    *BLOCK_CONFIG,
    constant(intermediate_output_index=None),
)
# Of training, of tokenizers, and of parts that are refused.
IGNORED = (
    *(
        f"vision_cfg.{name}"
        for name in ("attn_pooler_*", "final_ln_after_pool", "image_seq_len", "output_tokens")
    ),
    *("vision_cfg.patch_dropout", "vision_cfg.timm_*"),
    *(
        f"text_cfg.{name}"
        for name in ("bos_id", "final_ln_after_pool", "hf_*", "output_tokens", "pad_id")
    ),
    *("text_cfg.tiktoken_name", "text_cfg.tokenizer_*", "text_cfg.variable_text"),
    *("custom_text", "init_logit_scale", "output_dict"),
)
BLOCK: tuple[Rule, ...] = (
    *(
        rule(
            f"attn.in_proj_{leaf}",
            tuple(f"attention.{name}.{leaf}" for name in ATTENTION.values()),
            FUSE,
        )
        for leaf in ("weight", "bias")
    ),
    *layer("attn.out_proj", "attention.attention_output"),
    *layer("ln_1", "layer_norm_1"),
    *layer("ln_2", "layer_norm_2"),
    *layer("mlp.c_fc", "dense_1"),
    *layer("mlp.c_proj", "dense_2"),
)
BLOCKS = under("transformer.resblocks.{}.", "encoder_layers.{}.", BLOCK)
VISION = (
    rule("class_embedding", "embedding.class_embedding"),
    rule("conv1.weight", "embedding.patch_embedding.weight"),
    Rule(("positional_embedding",), NUMBERED_POSITIONS.ours, NUMBERED_POSITIONS.operations),
    *layer("ln_pre", "pre_layer_norm"),
    *BLOCKS,
    *layer("ln_post", "layer_norm"),
)
TEXT = (
    rule("token_embedding.weight", "embedding.token_embedding.weight"),
    rule("positional_embedding", "embedding.position_embedding.weight"),
    *BLOCKS,
    *layer("ln_final", "layer_norm"),
)
CLIP = Table(
    model_types=("clip",),
    backbone=CLIPBackbone,
    parts={"vision_encoder": CLIPVisionEncoder, "text_encoder": CLIPTextEncoder},
    config=within(
        "model_cfg.",
        (
            absent("audio_cfg", "an encoder of sound", None),
            absent("multimodal_cfg", "a decoder of texts, as CoCa has it", None),
            absent("init_logit_bias", "a bias of the logits, as SigLIP has it", None),
            only("nonscalar_logit_scale", False),
            key("embed_dim", "projection_dim"),
            *within("vision_cfg.", VISION_CONFIG, "vision_encoder"),
            *within("text_cfg.", TEXT_CONFIG, "text_encoder"),
            read(
                {"quick_gelu": False},
                *(
                    f"{tower}.intermediate_activation"
                    for tower in ("vision_encoder", "text_encoder")
                ),
                load=load_activations,
            ),
        ),
    ),
    ignored=tuple(f"model_cfg.{name}" for name in IGNORED),
    weights=(
        *of("vision_encoder", "visual.", VISION),
        *of("text_encoder", "", TEXT),
        rule("visual.proj", "vision_projection.weight", TRANSPOSE),
        rule("text_projection", "text_projection.weight", TRANSPOSE),
        rule("logit_scale", "clip_head.logit_scale", SCALAR),
    ),
    # Of models with `custom_text`.
    renames=(("text.*", "*"),),
)
TABLES = (CLIP,)
