"""ResNet v1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...backbones.resnet import ResNetBackbone
from ..checkpoints.table import Key, Rule, Table, constant, fixed, norm, rule, under

# Layer type → block type, and how much wider its output is.
BLOCKS = {"basic": ("basic_block", 1), "bottleneck": ("bottleneck_block", 4)}
# The stem's width, and the first stack's.
FIRST = 64


def load_network(
    kind: str,
    embedding: int,
    sizes: Sequence[int],
    depths: Sequence[int],
    strided: bool,
    early: bool,
) -> tuple[Any, ...]:
    """`early` is whether the first of a bottleneck's convolutions has the stride."""
    if kind not in BLOCKS:
        raise ValueError(f"layer_type is {kind!r}; only {' or '.join(BLOCKS)} can be computed")
    block, wider = BLOCKS[kind]
    if len(sizes) != len(depths):
        raise ValueError(f"hidden_sizes {sizes} and depths {depths} are of different lengths")
    if sizes[0] != FIRST * wider or any(size % wider for size in sizes):
        raise ValueError(
            f"hidden_sizes is {sizes}; only multiples of {wider}, the first of them "
            f"{FIRST * wider}, can be computed"
        )
    if early and kind == "bottleneck":
        raise ValueError("downsample_in_bottleneck is True; only False can be computed")
    # There a block has a shortcut where it changes the shape, here as its type says.
    if (embedding != sizes[0] or strided) != (kind == "bottleneck"):
        raise ValueError(
            f"embedding_size is {embedding} and downsample_in_first_stage {strided}, with which "
            f"the first of these {kind} layers cannot be computed"
        )
    strides = [2 if strided else 1, *[2] * (len(sizes) - 1)]
    return block, [embedding], [size // wider for size in sizes], list(depths), strides


def save_network(
    block: str,
    stem: Sequence[int],
    filters: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
) -> tuple[Any, ...]:
    known = {name: (kind, wider) for kind, (name, wider) in BLOCKS.items()}
    if block not in known:
        raise ValueError(f"block_type is {block!r}; only {' or '.join(known)} can be written")
    if len(stem) > 1:
        raise ValueError(f"input_conv_filters is {stem}; only one number can be written")
    if strides[0] not in (1, 2) or any(stride != 2 for stride in strides[1:]):
        raise ValueError(f"stackwise_num_strides is {strides}; only 2 behind 1 or 2 can be written")
    kind, wider = known[block]
    values = kind, stem[0], [wider * size for size in filters], depths, strides[0] == 2, False
    load_network(*values)
    return values


def save_channels(shape: Sequence[int | None], data_format: str | None) -> tuple[Any, ...]:
    return (shape[0 if data_format == "channels_first" else -1] or 3,)


def conv(theirs: str, convolution: str, batch_norm: str) -> tuple[Rule, ...]:
    return (
        rule(f"{theirs}.convolution.weight", f"{convolution}.weight"),
        *norm(f"{theirs}.normalization", batch_norm),
    )


BLOCK = (
    *conv("shortcut", "conv0", "bn0"),
    *(one for i in range(3) for one in conv(f"layer.{i}", f"conv{i + 1}", f"bn{i + 1}")),
)
RESNET = Table(
    model_types=("resnet",),
    architecture="ResNetModel",
    backbone=ResNetBackbone,
    config=(
        Key(
            {
                "layer_type": "bottleneck",
                "embedding_size": FIRST,
                "hidden_sizes": (256, 512, 1024, 2048),
                "depths": (3, 4, 6, 3),
                "downsample_in_first_stage": False,
                "downsample_in_bottleneck": False,
            },
            (
                "block_type",
                "input_conv_filters",
                "stackwise_num_filters",
                "stackwise_num_blocks",
                "stackwise_num_strides",
            ),
            load_network,
            save_network,
        ),
        Key(
            {"num_channels": 3},
            ("image_shape", "data_format"),
            lambda channels: ((None, None, channels),),
            save_channels,
        ),
        fixed("hidden_act", "relu"),
        constant(input_conv_kernel_sizes=[7], use_pre_activation=False),
    ),
    weights=(
        *conv("embedder.embedder", "stem.conv1_conv", "stem.conv1_bn"),
        *under("encoder.stages.{}.layers.{}.", "stack{}.{}.", BLOCK),
    ),
    renames=(("resnet.*", "*"),),
    ignored=("out_features", "out_indices", "stage_names"),
    dropped=("classifier.*", "*.num_batches_tracked"),
)
TABLES = (RESNET,)
