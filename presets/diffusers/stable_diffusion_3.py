"""Stable Diffusion 3: its transformer alone, and pipelines with and without a T5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...backbones.clip import CLIPTextEncoder
from ...backbones.stable_diffusion_3 import MMDiT, StableDiffusion3Backbone, T5Encoder
from ...backbones.stable_diffusion_3.backbone import T5_DIM, VAE_FACTOR
from ...backbones.vae import VAEBackbone
from ..checkpoints.table import (
    BATCHED,
    Arguments,
    Key,
    Operation,
    Rule,
    Table,
    constant,
    fixed,
    key,
    layer,
    of,
    only,
    rule,
    under,
    within,
)
from ..transformers import clip, t5
from . import vae

# The order of shift and scale.
SWAP = Operation(
    save=lambda tensors: [torch.cat(tensor.chunk(2)[::-1]) for tensor in tensors],
    load=lambda tensors, shapes: [torch.cat(tensor.chunk(2)[::-1]) for tensor in tensors],
)


def swapped(theirs: str, ours: str) -> tuple[Rule, ...]:
    return tuple(replace(one, operations=(SWAP,)) for one in layer(theirs, ours))


def parted(
    theirs: Sequence[str], ours: str, widths: Callable[[Arguments], list[int]]
) -> tuple[Rule, Rule]:
    """A layer of ours whose outputs are those of several there, of these widths."""

    def operation(arguments: Arguments) -> Operation:
        return Operation(
            save=lambda tensors: list(tensors[0].split(widths(arguments))),
            load=lambda tensors, shapes: [torch.cat(list(tensors))],
        )

    weight, bias = (
        Rule(tuple(f"{name}.{leaf}" for name in theirs), (f"{ours}.{leaf}",), (operation,))
        for leaf in ("weight", "bias")
    )
    return weight, bias


def width(name: str) -> Callable[[Arguments], list[int]]:
    """Of queries, keys and values, by the argument for the model's."""
    return lambda arguments: [arguments[name]] * 3


def embedder(theirs: str, ours: str, first: str, second: str) -> tuple[Rule, ...]:
    return (
        *layer(f"time_text_embed.{theirs}_embedder.linear_1", f"{ours}.{first}"),
        *layer(f"time_text_embed.{theirs}_embedder.linear_2", f"{ours}.{second}"),
    )


def attention(
    theirs: str,
    block: str,
    projections: str,
    out: str,
    norms: str,
    hidden_dim: str,
    number: str = "",
) -> tuple[Rule, ...]:
    names = [f"{theirs}.{projections.format(letter)}" for letter in "qkv"]
    return (
        *parted(names, f"{block}.attention_qkv{number}", width(hidden_dim)),
        *layer(f"{theirs}.{out}", f"{block}.attention_proj{number}"),
        rule(f"{theirs}.{norms}_q.weight", f"{block}.q_norm{number}.weight"),
        rule(f"{theirs}.{norms}_k.weight", f"{block}.k_norm{number}.weight"),
    )


def feed_forward(theirs: str, block: str) -> tuple[Rule, ...]:
    return (
        *layer(f"{theirs}.net.0.proj", f"{block}.mlp.dense1"),
        *layer(f"{theirs}.net.2", f"{block}.mlp.dense2"),
    )


def load_shape(side: int, channels: int, out: int | None) -> tuple[list[int]]:
    if out not in (None, channels):
        raise ValueError(f"out_channels is {out}; only in_channels, {channels}, can be computed")
    return ([side, side, channels],)


def save_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    height, side, channels = shape
    if height != side:
        raise ValueError(f"latent_shape is {tuple(shape)}, not square")
    return side, channels, channels


def load_width(heads: int, dim: int, caption: int) -> tuple[int, int]:
    if caption != heads * dim:
        raise ValueError(f"caption_projection_dim is {caption}, not {heads * dim}")
    return heads, heads * dim


def last(shape: Sequence[Any]) -> Any:
    return shape[-1]


CONFIG = (
    Key(
        {"sample_size": 128, "in_channels": 16, "out_channels": 16},
        ("latent_shape",),
        load_shape,
        save_shape,
    ),
    Key(
        {"num_attention_heads": 18, "attention_head_dim": 64, "caption_projection_dim": 1152},
        ("num_heads", "hidden_dim"),
        load_width,
        lambda heads, dim: (heads, dim // heads, dim),
    ),
    key("patch_size", "patch_size", 2),
    key("num_layers", "num_layers", 18),
    key("joint_attention_dim", "context_shape", 4096, lambda dim: [None, dim], last),
    key("pooled_projection_dim", "pooled_projection_shape", 2048, lambda dim: [dim], last),
    key("pos_embed_max_size", "position_size", 96),
    key("dual_attention_layers", "dual_attention_indices", (), list, list),
    key("qk_norm", "qk_norm", None),
    constant(mlp_ratio=4.0),
    Key({}, ("data_format",), lambda: (None,), lambda order: ()),
)


def weights(hidden_dim: str, num_layers: str) -> tuple[Rule, ...]:
    """By the arguments for the transformer's width and for the number of its blocks."""

    def is_last(number: int, arguments: Arguments) -> bool:
        return bool(number == arguments[num_layers] - 1)

    def is_before(number: int, arguments: Arguments) -> bool:
        return not is_last(number, arguments)

    context = ("norm1_context.linear", "context_block.ada_layer_norm.dense")
    block = (
        *layer("norm1.linear", "x_block.ada_layer_norm.dense"),
        *(replace(one, where=is_before) for one in layer(*context)),
        *(replace(one, where=is_last) for one in swapped(*context)),
        *attention("attn", "x_block", "to_{}", "to_out.0", "norm", hidden_dim),
        *attention("attn2", "x_block", "to_{}", "to_out.0", "norm", hidden_dim, "2"),
        *attention("attn", "context_block", "add_{}_proj", "to_add_out", "norm_added", hidden_dim),
        *feed_forward("ff", "x_block"),
        *feed_forward("ff_context", "context_block"),
    )
    return (
        rule("pos_embed.pos_embed", "position_embedding.weight", BATCHED),
        *layer("pos_embed.proj", "patch_embedding.patch_embedding"),
        *layer("context_embedder", "context_embedding"),
        *embedder("timestep", "timestep_embedding", "mlp.dense1", "mlp.dense2"),
        *embedder("text", "vector_embedding", "dense1", "dense2"),
        *under("transformer_blocks.{}.", "joint_blocks.{}.", block),
        *swapped("norm_out.linear", "output_ada_layer_norm.dense"),
        *layer("proj_out", "output_dense"),
    )


MMDIT = Table(
    model_types=("SD3Transformer2DModel",),
    backbone=MMDiT,
    config=CONFIG,
    weights=weights("hidden_dim", "num_layers"),
)


# Pipelines


def load_image_shape(side: int, channels: int, out: int | None) -> tuple[list[int], int]:
    (shape,) = load_shape(side, channels, out)
    return [VAE_FACTOR * shape[0], VAE_FACTOR * shape[1], 3], shape[2]


def save_image_shape(shape: Sequence[int], channels: int) -> tuple[int, int, int]:
    height, side, _ = shape
    if height != side:
        raise ValueError(f"image_shape is {tuple(shape)}, not square")
    return side // VAE_FACTOR, channels, channels


def save_index(index: int, num_layers: int) -> tuple[()]:
    if index != num_layers - 2:
        raise ValueError(f"intermediate_output_index is {index}, not the last but one")
    return ()


def named(name: str) -> Key:
    """A part's name, which has no key there."""
    return free(name=name)


def free(**arguments: Any) -> Key:
    """Arguments without a key that change no outputs, and what they become."""
    return Key(
        {},
        tuple(arguments),
        lambda: tuple(arguments.values()),
        lambda *values: (),
    )


TRANSFORMER_CONFIG = (
    Key(
        {"sample_size": 128, "in_channels": 16, "out_channels": 16},
        ("image_shape", "latent_channels"),
        load_image_shape,
        save_image_shape,
    ),
    Key(
        {"num_attention_heads": 18, "attention_head_dim": 64, "caption_projection_dim": 1152},
        ("mmdit_num_heads", "mmdit_hidden_dim"),
        load_width,
        lambda heads, dim: (heads, dim // heads, dim),
    ),
    key("patch_size", "mmdit_patch_size", 2),
    key("num_layers", "mmdit_num_layers", 18),
    Key(
        {"pooled_projection_dim": 2048},
        ("clip_l.hidden_dim", "clip_g.hidden_dim"),
        lambda dim: (),
        lambda *dims: (sum(dims),),
    ),
    key("pos_embed_max_size", "mmdit_position_size", 96),
    key(
        "dual_attention_layers",
        "mmdit_dual_attention_indices",
        (),
        lambda layers: list(layers) or None,
        lambda layers: list(layers or ()),
    ),
    key("qk_norm", "mmdit_qk_norm", None),
    fixed("_class_name", "SD3Transformer2DModel"),
)
SCHEDULER_CONFIG = (
    key("num_train_timesteps", "num_train_timesteps", 1000),
    key("shift", "shift", 1.0),
    *(
        only(name, False)
        for name in (
            *("use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas"),
            *("use_beta_sigmas", "invert_sigmas", "stochastic_sampling"),
        )
    ),
    only("shift_terminal", None),
    fixed("_class_name", "FlowMatchEulerDiscreteScheduler"),
)
CLIP_CONFIG = (
    *clip.words(49408, 512, 77),
    *clip.blocks(12, 8, 2048),
    *clip.CONFIG[:2],
    Key({}, ("intermediate_output_index", "num_layers"), lambda: (-2,), save_index),
    Key({"projection_dim": 512}, ("hidden_dim",), lambda dim: (), lambda dim: (dim,)),
    Key(
        {"eos_token_id": 49407, "vocab_size": 49408},
        (),
        lambda eos, size: clip.check_end(eos, None, size),
        lambda: (2,),
    ),
    fixed("model_type", "clip_text_model"),
    fixed("architectures", ["CLIPTextModelWithProjection"]),
)
T5_CONFIG = (
    *t5.ENCODER.config,
    fixed("model_type", "t5"),
    fixed("architectures", ["T5EncoderModel"]),
)
CLIP_FILES = ("model.safetensors", "pytorch_model.bin")
MODEL_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# What a pipeline may have besides; in its index.
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
ABSENT = [None, None]
TOWERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
PIPELINE = Table(
    model_types=("StableDiffusion3Pipeline",),
    backbone=StableDiffusion3Backbone,
    parts={"vae": VAEBackbone, "clip_l": CLIPTextEncoder, "clip_g": CLIPTextEncoder},
    config=(
        *within("transformer.", TRANSFORMER_CONFIG),
        fixed("transformer.joint_attention_dim", T5_DIM),
        *within("scheduler.", SCHEDULER_CONFIG),
        *within("vae.", (*vae.CONFIG, fixed("_class_name", "AutoencoderKL")), "vae"),
        *(
            one
            for folder, part in TOWERS.items()
            for one in within(f"{folder}.", (*CLIP_CONFIG, named(part)), part)
        ),
        *within("", (named("vae"),), "vae"),
        free(output_channels=3, data_format=None),
        constant(t5=None),
    ),
    ignored=(
        *(f"vae.{name}" for name in vae.IGNORED),
        *(f"{folder}.{name}" for folder in TOWERS for name in clip.IGNORED),
        "scheduler.base_*",
        "scheduler.max_*",
        "scheduler.time_shift_type",
    ),
    weights=(
        *under("transformer.", "diffuser.", weights("mmdit_hidden_dim", "mmdit_num_layers")),
        *of("vae", "vae.", vae.WEIGHTS),
        *(
            one
            for folder, part in TOWERS.items()
            for one in (
                *of(part, f"{folder}.text_model.", clip.TEXT),
                rule(f"{folder}.text_projection.weight", f"{part}_projection.dense.weight"),
            )
        ),
    ),
    dropped=tuple(f"{folder}.text_model.{name}" for folder in TOWERS for name in clip.NUMBERS),
    extra=dict.fromkeys(("text_encoder_3", *TOKENIZERS), ABSENT),
    folders={"transformer": MODEL_FILES, "vae": MODEL_FILES, **dict.fromkeys(TOWERS, CLIP_FILES)},
)
WITH_T5 = replace(
    PIPELINE,
    model_types=("StableDiffusion3Pipeline+text_encoder_3",),
    parts={**PIPELINE.parts, "t5": T5Encoder},
    config=(
        *(
            one
            for one in PIPELINE.config
            if "t5" not in one.ours and "transformer.joint_attention_dim" not in one.theirs
        ),
        Key(
            {"transformer.joint_attention_dim": T5_DIM},
            ("t5.hidden_dim",),
            lambda dim: (),
            lambda dim: (dim,),
        ),
        *within("text_encoder_3.", (*T5_CONFIG, named("t5")), "t5"),
    ),
    ignored=(
        *PIPELINE.ignored,
        *(f"text_encoder_3.{name}" for name in t5.ENCODER.ignored),
    ),
    weights=(*PIPELINE.weights, *of("t5", "text_encoder_3.", t5.ENCODER_WEIGHTS)),
    tied={"text_encoder_3.encoder.embed_tokens.weight": "text_encoder_3.shared.weight"},
    extra=dict.fromkeys(TOKENIZERS, ABSENT),
    folders={**PIPELINE.folders, "text_encoder_3": CLIP_FILES},
)
TABLES = (MMDIT, PIPELINE, WITH_T5)
