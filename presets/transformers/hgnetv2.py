"""PP-HGNetV2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...backbones.hgnetv2 import HGNetV2Backbone
from ..checkpoints.table import Key, Table, fixed, key, norm, rule, under

STAGES = {
    "stage_in_channels": (48, 128, 512, 1024),
    "stage_mid_channels": (48, 96, 192, 384),
    "stage_out_channels": (128, 512, 1024, 2048),
    "stage_num_blocks": (1, 1, 3, 1),
    "stage_numb_of_layers": (6, 6, 6, 6),
    "stage_kernel_size": (3, 3, 5, 5),
}


def load_stages(*columns: Sequence[int]) -> tuple[list[list[int]]]:
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"{', '.join(STAGES)} are of different lengths")
    return ([list(stage) for stage in zip(*columns)],)


def save_stages(stages: Sequence[Sequence[int]], downsample: Sequence[bool]) -> tuple[Any, ...]:
    """Of a stage that is not downsampled the first number is of no account here."""
    rows = [list(stage) for stage in stages]
    for before, row, strided in zip(rows, rows[1:], downsample[1:]):
        if row[0] != before[2]:
            if strided:
                raise ValueError(f"stackwise_stage_filters={stages} has a stage of fewer channels")
            row[0] = before[2]
    return tuple(map(list, zip(*rows)))


def check_strides(strides: Sequence[int], downsample: Sequence[bool]) -> tuple[()]:
    if any(strided and stride != 2 for stride, strided in zip(strides, downsample)):
        raise ValueError(f"stage_downsample_strides is {strides}; only 2 can be computed")
    return ()


def load_channels(channels: int, stem: Sequence[int]) -> tuple[Any, ...]:
    if stem[0] != channels:
        raise ValueError(f"stem_channels {stem} begins with other than num_channels {channels}")
    return (None, None, channels), list(stem)


def save_channels(
    shape: Sequence[int | None], stem: Sequence[int], data_format: str
) -> tuple[Any, ...]:
    channels = shape[0 if data_format == "channels_first" else -1] or 3
    return channels, [channels, *stem[1:]]


CONV = (
    rule("convolution.weight", "conv.weight"),
    *norm("normalization", "bn"),
    rule("lab.scale", "lab.scale"),
    rule("lab.bias", "lab.bias"),
)
BLOCK = (
    *under("layers.{}.", "layers.{}.", CONV),
    *under("layers.{}.conv1.", "layers.{}.conv1.", CONV),
    *under("layers.{}.conv2.", "layers.{}.conv2.", CONV),
    *under("aggregation.0.", "agg_squeeze.", CONV),
    *under("aggregation.1.", "agg_excite.", CONV),
)
HGNETV2 = Table(
    model_types=("hgnet_v2",),
    architecture="HGNetV2Backbone",
    backbone=HGNetV2Backbone,
    config=(
        key("depths", "depths", (3, 4, 6, 3)),
        key("embedding_size", "embedding_size", 64),
        key("hidden_sizes", "hidden_sizes", (256, 512, 1024, 2048)),
        key("hidden_act", "hidden_act", "relu"),
        key("use_learnable_affine_block", "use_learnable_affine_block", False),
        key("stage_downsample", "apply_downsample", (False, True, True, True)),
        key("stage_light_block", "use_lightweight_conv_block", (False, False, True, True)),
        Key(STAGES, ("stackwise_stage_filters", "apply_downsample"), load_stages, save_stages),
        Key(
            {"num_channels": 3, "stem_channels": (3, 32, 48)},
            ("image_shape", "stem_channels", "data_format"),
            load_channels,
            save_channels,
        ),
        Key(
            {"stage_downsample_strides": (2, 2, 2, 2), "stage_downsample": (True,) * 4},
            (),
            check_strides,
            tuple,
        ),
        fixed("stem_strides", [2, 1, 1, 2, 1]),
        key("out_features", "out_features", None),
    ),
    weights=(
        *(
            one
            for i in ("1", "2a", "2b", "3", "4")
            for one in under(f"embedder.stem{i}.", f"embedder.stem{i}.", CONV)
        ),
        *under("encoder.stages.{}.downsample.", "encoder.stages.{}.downsample.", CONV),
        *under("encoder.stages.{}.blocks.{}.", "encoder.stages.{}.blocks.{}.", BLOCK),
    ),
    ignored=("out_indices", "stage_names"),
    dropped=("*.num_batches_tracked", "fc.*"),
)
TABLES = (HGNETV2,)
