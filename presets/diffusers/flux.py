"""FLUX.1's transformer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...backbones.flux import FluxBackbone
from ..checkpoints.table import (
    Arguments,
    Key,
    Operation,
    Rule,
    Table,
    Tensors,
    constant,
    fixed,
    key,
    layer,
    rule,
    under,
)
from .stable_diffusion_3 import SWAP, embedder, parted, width

# Of images of 1024 pixels and of T5's texts: KerasHub's lengths, which are free here.
IMAGE_LENGTH, TEXT_LENGTH = 4096, 512


def load_shapes(
    channels: int, out: int | None, text: int, pooled: int, axes: Sequence[int]
) -> tuple[object, ...]:
    return (
        out or channels,
        [IMAGE_LENGTH, channels],
        [TEXT_LENGTH, text],
        [pooled],
        list(axes),
        [IMAGE_LENGTH, len(axes)],
        [TEXT_LENGTH, len(axes)],
    )


def save_shapes(
    out: int,
    image: Sequence[int],
    text: Sequence[int],
    pooled: Sequence[int],
    axes: Sequence[int],
    image_ids: Sequence[int],
    text_ids: Sequence[int],
) -> tuple[object, ...]:
    if not len(axes) == image_ids[-1] == text_ids[-1]:
        raise ValueError(f"places have {image_ids[-1]} axes, and axes_dim {len(axes)}")
    return image[-1], out, text[-1], pooled[-1], list(axes)


def fold(tensors: Tensors) -> list[torch.Tensor]:
    """Norms there have no weights: these become part of what modulates them."""
    weight, bias, *norms = tensors
    count = len(weight) // len(norms[0])
    weights, biases = list(weight.chunk(count)), list(bias.chunk(count))
    for i, (factor, summand) in enumerate(zip(norms[::2], norms[1::2])):
        shift, scale = 3 * i, 3 * i + 1
        weights[shift] = weights[shift] + summand[:, None] * weights[scale]
        biases[shift] = biases[shift] + summand * biases[scale] + summand
        weights[scale] = factor[:, None] * weights[scale]
        biases[scale] = factor * biases[scale] + (factor - 1)
    return [torch.cat(weights), torch.cat(biases)]


def plain(tensors: Tensors, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
    weight, bias = tensors
    norms = [
        make(shape, dtype=weight.dtype)
        for shape, make in zip(shapes[2:], (torch.ones, torch.zeros) * len(shapes))
    ]
    return [weight, bias, *norms]


FOLD = Operation(save=fold, load=plain)


def modulation(theirs: str, ours: str, *norms: str) -> Rule:
    layers = (ours, *norms)
    return Rule(
        (f"{theirs}.weight", f"{theirs}.bias"),
        tuple(f"{name}.{leaf}" for name in layers for leaf in ("weight", "bias")),
        (FOLD,),
    )


def stream(ours: str, letters: str, norms: str, out: str, net: str, norm: str) -> tuple[Rule, ...]:
    """One of a block's two streams; `letters` stands around q, k and v."""
    return (
        modulation(
            f"{norm}.linear", f"{ours}_mod.linear_projection", f"{ours}_norm1", f"{ours}_norm2"
        ),
        *parted(
            [letters.format(letter) for letter in "qkv"], f"{ours}_attn.qkv", width("hidden_size")
        ),
        rule(f"{norms}_q.weight", f"{ours}_attn.norm.query_norm.weight"),
        rule(f"{norms}_k.weight", f"{ours}_attn.norm.key_norm.weight"),
        *layer(out, f"{ours}_attn.proj"),
        *layer(f"{net}.net.0.proj", f"{ours}_mlp.0"),
        *layer(f"{net}.net.2", f"{ours}_mlp.2"),
    )


def single_widths(arguments: Arguments) -> list[int]:
    dim = arguments["hidden_size"]
    return [dim, dim, dim, int(dim * arguments["mlp_ratio"])]


DOUBLE = (
    *stream("image", "attn.to_{}", "attn.norm", "attn.to_out.0", "ff", "norm1"),
    *stream(
        "text",
        "attn.add_{}_proj",
        "attn.norm_added",
        "attn.to_add_out",
        "ff_context",
        "norm1_context",
    ),
)
SINGLE = (
    modulation("norm.linear", "modulation.linear_projection", "pre_norm"),
    *parted(["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"], "linear1", single_widths),
    rule("attn.norm_q.weight", "norm.query_norm.weight"),
    rule("attn.norm_k.weight", "norm.key_norm.weight"),
    *layer("proj_out", "linear2"),
)


def fold_last(tensors: Tensors) -> list[torch.Tensor]:
    return SWAP.save(fold(tensors))


def plain_last(tensors: Tensors, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
    return plain(SWAP.load(tensors, shapes), shapes)


LAST = Rule(
    ("norm_out.linear.weight", "norm_out.linear.bias"),
    (
        "final_layer.adaLN_modulation.1.weight",
        "final_layer.adaLN_modulation.1.bias",
        "final_layer.norm_final.weight",
        "final_layer.norm_final.bias",
    ),
    (Operation(save=fold_last, load=plain_last),),
)
FLUX = Table(
    model_types=("FluxTransformer2DModel",),
    backbone=FluxBackbone,
    config=(
        Key(
            {
                "in_channels": 64,
                "out_channels": None,
                "joint_attention_dim": 4096,
                "pooled_projection_dim": 768,
                "axes_dims_rope": (16, 56, 56),
            },
            (
                *("input_channels", "image_shape", "text_shape", "y_shape"),
                *("axes_dim", "image_ids_shape", "text_ids_shape"),
            ),
            load_shapes,
            save_shapes,
        ),
        Key(
            {"num_attention_heads": 24, "attention_head_dim": 128},
            ("num_heads", "hidden_size"),
            lambda heads, dim: (heads, heads * dim),
            lambda heads, dim: (heads, dim // heads),
        ),
        key("num_layers", "depth", 19),
        key("num_single_layers", "depth_single_blocks", 38),
        key("guidance_embeds", "guidance_embed", False),
        fixed("patch_size", 1),
        constant(mlp_ratio=4.0, theta=10000, use_bias=True),
    ),
    weights=(
        *layer("x_embedder", "image_input_embedder"),
        *layer("context_embedder", "text_input_embedder"),
        *embedder("timestep", "time_input_embedder", "input_layer", "output_layer"),
        *embedder("guidance", "guidance_input_embedder", "input_layer", "output_layer"),
        *embedder("text", "vector_embedder", "input_layer", "output_layer"),
        *under("transformer_blocks.{}.", "double_blocks.{}.", DOUBLE),
        *under("single_transformer_blocks.{}.", "single_blocks.{}.", SINGLE),
        LAST,
        *layer("proj_out", "final_layer.linear"),
    ),
)
TABLES = (FLUX,)
