"""The autoencoder of Stable Diffusion 3's files, and that of FLUX.1's, `ae.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...backbones.vae import VAEBackbone
from ..checkpoints.single_file import RENAMES, TEXTS, TRANSFORMER
from ..checkpoints.single_file import VAE as PREFIX
from ..checkpoints.table import (
    REQUIRED,
    Arguments,
    Key,
    Rule,
    Table,
    constant,
    layer,
    under,
    within,
)
from ..diffusers.vae import in_stages

STABLE_DIFFUSION_3 = {"scale": 1.5305, "shift": 0.0609}
FLUX = {"scale": 0.3611, "shift": 0.1159}


def load_sizes(
    encoder: Mapping[str, Any], decoder: Mapping[str, Any]
) -> tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int], int, int, int]:
    """Widths and numbers of blocks, of both halves, and channels."""
    down, down_counts = stages(encoder["down"])
    up, up_counts = stages(decoder["up"])
    return (
        *(down, down_counts, up[::-1], up_counts[::-1]),
        encoder["conv_in"]["weight"][1],
        encoder["conv_out"]["weight"][0],
        decoder["conv_out"]["weight"][0],
    )


def stages(blocks: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Widths and numbers of blocks."""
    rows = [blocks[str(i)]["block"] for i in range(len(blocks))]
    return [row["0"]["conv2"]["weight"][0] for row in rows], [len(row) for row in rows]


def reversed_stages(key: str) -> Any:
    """As `in_stages`, the last stage first."""
    forward = in_stages(key)

    def numbers(here: Sequence[str], arguments: Arguments) -> list[str]:
        stage, block = forward(here, arguments)
        return [str(len(arguments[key]) - 1 - int(stage)), block]

    return numbers


def reversed_gaps(key: str) -> Any:
    """The number of what follows a stage."""

    def numbers(here: Sequence[str], arguments: Arguments) -> list[str]:
        return [str(len(arguments[key]) - 1 - int(here[0]))]

    return numbers


RESNET = (
    *(one for name in ("norm1", "conv1", "norm2", "conv2") for one in layer(name, name)),
    *layer("nin_shortcut", "residual_projection"),
)
ATTENTION = (
    *layer("norm", "group_norm"),
    *layer("q", "query_conv2d"),
    *layer("k", "key_conv2d"),
    *layer("v", "value_conv2d"),
    *layer("proj_out", "output_conv2d"),
)
ENDS = (
    *layer("conv_in", "input_projection"),
    *under("mid.block_1.", "mid_block_0.", RESNET),
    *under("mid.block_2.", "mid_block_1.", RESNET),
    *under("mid.attn_1.", "mid_attention.", ATTENTION),
    *layer("norm_out", "output_norm"),
    *layer("conv_out", "output_projection"),
)


def numbered(numbers: Any, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Rules whose places in names are counted so."""
    return tuple(replace(one, numbers=numbers) for one in rules)


DOWN, UP = "encoder_num_blocks", "decoder_num_blocks"
WEIGHTS = (
    *under("encoder.", "encoder.", ENDS),
    *numbered(in_stages(DOWN), under("encoder.down.{}.block.{}.", "encoder.blocks.{}.", RESNET)),
    *layer("encoder.down.{}.downsample.conv", "encoder.downsamples.{}"),
    *under("decoder.", "decoder.", ENDS),
    *numbered(reversed_stages(UP), under("decoder.up.{}.block.{}.", "decoder.blocks.{}.", RESNET)),
    *numbered(reversed_gaps(UP), layer("decoder.up.{}.upsample.conv", "decoder.upsamples.{}")),
)
CONFIG = (
    Key(
        {"encoder": REQUIRED, "decoder": REQUIRED},
        (
            *("encoder_num_filters", DOWN, "decoder_num_filters", UP),
            *("input_channels", "sample_channels", "output_channels"),
        ),
        load_sizes,
        lambda *sizes: (),
    ),
    constant(sampler_method="sample", data_format=None),
)
VAE = Table(
    model_types=("vae",),
    backbone=VAEBackbone,
    config=(
        *within(PREFIX, CONFIG),
        constant(**STABLE_DIFFUSION_3),
    ),
    weights=under(PREFIX, "", WEIGHTS),
    renames=RENAMES,
    dropped=(f"{TRANSFORMER}*", f"{TEXTS}*"),
)
TABLES = (VAE, replace(VAE, model_types=("vae+flux",), config=(*VAE.config[:-1], constant(**FLUX))))
