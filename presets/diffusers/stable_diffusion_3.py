"""Stable Diffusion 3's transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...backbones.stable_diffusion_3 import MMDiT
from ..checkpoints.table import (
    BATCHED,
    Arguments,
    Key,
    Operation,
    Rule,
    Table,
    constant,
    key,
    layer,
    rule,
    under,
)

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
    theirs: str, block: str, projections: str, out: str, norms: str, number: str = ""
) -> tuple[Rule, ...]:
    names = [f"{theirs}.{projections.format(letter)}" for letter in "qkv"]
    return (
        *parted(names, f"{block}.attention_qkv{number}", width("hidden_dim")),
        *layer(f"{theirs}.{out}", f"{block}.attention_proj{number}"),
        rule(f"{theirs}.{norms}_q.weight", f"{block}.q_norm{number}.weight"),
        rule(f"{theirs}.{norms}_k.weight", f"{block}.k_norm{number}.weight"),
    )


def feed_forward(theirs: str, block: str) -> tuple[Rule, ...]:
    return (
        *layer(f"{theirs}.net.0.proj", f"{block}.mlp.dense1"),
        *layer(f"{theirs}.net.2", f"{block}.mlp.dense2"),
    )


def is_last(number: int, arguments: Arguments) -> bool:
    return bool(number == arguments["num_layers"] - 1)


def is_before(number: int, arguments: Arguments) -> bool:
    return not is_last(number, arguments)


BLOCK = (
    *layer("norm1.linear", "x_block.ada_layer_norm.dense"),
    *attention("attn", "x_block", "to_{}", "to_out.0", "norm"),
    *attention("attn2", "x_block", "to_{}", "to_out.0", "norm", "2"),
    *attention("attn", "context_block", "add_{}_proj", "to_add_out", "norm_added"),
    *feed_forward("ff", "x_block"),
    *feed_forward("ff_context", "context_block"),
)
CONTEXT = ("norm1_context.linear", "context_block.ada_layer_norm.dense")


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
)
WEIGHTS = (
    rule("pos_embed.pos_embed", "position_embedding.weight", BATCHED),
    *layer("pos_embed.proj", "patch_embedding.patch_embedding"),
    *layer("context_embedder", "context_embedding"),
    *embedder("timestep", "timestep_embedding", "mlp.dense1", "mlp.dense2"),
    *embedder("text", "vector_embedding", "dense1", "dense2"),
    *under(
        "transformer_blocks.{}.",
        "joint_blocks.{}.",
        (
            *BLOCK,
            *(replace(one, where=is_before) for one in layer(*CONTEXT)),
            *(replace(one, where=is_last) for one in swapped(*CONTEXT)),
        ),
    ),
    *swapped("norm_out.linear", "output_ada_layer_norm.dense"),
    *layer("proj_out", "output_dense"),
)
SD3 = Table(model_types=("SD3Transformer2DModel",), backbone=MMDiT, config=CONFIG, weights=WEIGHTS)
TABLES = (SD3,)
