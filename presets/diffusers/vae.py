"""The autoencoder of Stable Diffusion 3 and FLUX.1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...backbones.vae import GROUPS, VAEBackbone
from ..checkpoints.table import (
    Arguments,
    Key,
    Operation,
    Rule,
    Table,
    constant,
    demanded,
    fixed,
    key,
    layer,
    only,
    under,
)

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
# Convolutions of one pixel are linear layers there.
PIXEL = Operation(
    save=lambda tensors: [tensor.flatten(1) if tensor.ndim == 4 else tensor for tensor in tensors],
    load=lambda tensors, shapes: [tensor.view(shape) for tensor, shape in zip(tensors, shapes)],
)


def load_blocks(
    widths: Sequence[int], count: int, down: Sequence[str], up: Sequence[str]
) -> tuple[object, ...]:
    for types, known in ((down, DOWN), (up, UP)):
        if list(types) != [known] * len(widths):
            raise ValueError(f"blocks are {list(types)}; only {known}s can be computed")
    stages = len(widths)
    return (
        *(list(widths), [count] * stages),
        *(list(reversed(widths)), [count + 1] * stages),
    )


def save_blocks(
    widths: Sequence[int], counts: Sequence[int], back: Sequence[int], more: Sequence[int]
) -> tuple[object, ...]:
    stages, count = len(widths), counts[0]
    if list(back) != list(reversed(widths)):
        raise ValueError(f"decoder_num_filters are {list(back)}, not the encoder's in reverse")
    if list(counts) != [count] * stages or list(more) != [count + 1] * stages:
        raise ValueError(
            f"encoder_num_blocks are {list(counts)} and decoder_num_blocks {list(more)}; only "
            "equal ones, and one more in the decoder, can be written"
        )
    return list(widths), count, [DOWN] * stages, [UP] * stages


def in_stages(key: str) -> Any:
    """A block's number → those of its stage and within it."""

    def numbers(here: Sequence[str], arguments: Arguments) -> list[str]:
        return [str(number) for number in divmod(int(here[0]), arguments[key][0])]

    return numbers


RESNET = (
    *(one for name in ("norm1", "conv1", "norm2", "conv2") for one in layer(name, name)),
    *layer("conv_shortcut", "residual_projection"),
)
MID = (
    *under("resnets.0.", "mid_block_0.", RESNET),
    *under("resnets.1.", "mid_block_1.", RESNET),
    *layer("attentions.0.group_norm", "mid_attention.group_norm"),
    *(
        replace(one, operations=(PIXEL,))
        for theirs, ours in (
            *(("to_q", "query"), ("to_k", "key"), ("to_v", "value")),
            ("to_out.0", "output"),
        )
        for one in layer(f"attentions.0.{theirs}", f"mid_attention.{ours}_conv2d")
    ),
)


def coder(half: str, stages: str, between: str, resampler: str) -> tuple[Rule, ...]:
    blocks = under(f"{stages}.{{}}.resnets.{{}}.", "blocks.{}.", RESNET)
    return under(
        f"{half}.",
        f"{half}.",
        (
            *layer("conv_in", "input_projection"),
            *(replace(one, numbers=in_stages(f"{half}_num_blocks")) for one in blocks),
            *layer(f"{stages}.{{}}.{resampler}.0.conv", f"{between}.{{}}"),
            *under("mid_block.", "", MID),
            *layer("conv_norm_out", "output_norm"),
            *layer("conv_out", "output_projection"),
        ),
    )


CONFIG = (
    Key(
        {
            "block_out_channels": (64,),
            "layers_per_block": 1,
            "down_block_types": (DOWN,),
            "up_block_types": (UP,),
        },
        (
            *("encoder_num_filters", "encoder_num_blocks"),
            *("decoder_num_filters", "decoder_num_blocks"),
        ),
        load_blocks,
        save_blocks,
    ),
    key("in_channels", "input_channels", 3),
    key("out_channels", "output_channels", 3),
    key("latent_channels", "sample_channels", 4, lambda half: 2 * half, lambda both: both // 2),
    key("scaling_factor", "scale", 0.18215),
    key("shift_factor", "shift", None, lambda shift: shift or 0.0),
    fixed("norm_num_groups", GROUPS),
    fixed("act_fn", "silu"),
    fixed("mid_block_add_attention", True),
    demanded("use_quant_conv", True, False),
    demanded("use_post_quant_conv", True, False),
    only("latents_mean", None),
    only("latents_std", None),
    constant(sampler_method="sample"),
    Key({}, ("data_format",), lambda: (None,), lambda order: ()),
)
WEIGHTS = (
    *coder("encoder", "down_blocks", "downsamples", "downsamplers"),
    *coder("decoder", "up_blocks", "upsamples", "upsamplers"),
)
IGNORED = ("sample_size", "force_upcast")
VAE = Table(
    model_types=("AutoencoderKL",),
    backbone=VAEBackbone,
    config=CONFIG,
    weights=WEIGHTS,
    ignored=IGNORED,
)
TABLES = (VAE,)
