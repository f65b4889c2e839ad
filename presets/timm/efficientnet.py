"""EfficientNet: v1, Lite, EdgeTPU and v2.

timm pads strides evenly, as KerasHub's `v1` blocks do, or under the names `tf_…` at the end, as
`unfused` ones do; so these stand here for timm's inverted residuals, where KerasHub's converter
takes `unfused` for all of EdgeTPU and v2. `fused` blocks pad evenly in KerasHub, so `tf_…` of
EdgeTPU and v2 are none of its models, nor are the ones with other norms, convolutions or channels
(`_gn`, `_evos`, `_cc_`, `_blur_`, `_b…_pruned`, `gc_…`, `_x_`, `_h_`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...backbones.efficientnet import EfficientNetBackbone
from ...backbones.layers.convolution import adjust_channels
from ..checkpoints.table import Key, Rule, Table, layer, under
from .resnet import CHANNELS, pair

# Of each model the scale of its width and its depth.
SCALES = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
    "b8": (2.2, 3.6),
    "l2": (4.3, 5.3),
}
LITE = {
    "lite0": (1.0, 1.0),
    "lite1": (1.0, 1.1),
    "lite2": (1.1, 1.2),
    "lite3": (1.2, 1.4),
    "lite4": (1.4, 1.8),
}
# What KerasHub's converter says of all models, and its default values.
COMMON: dict[str, Any] = {
    "stackwise_nores_option": [False] * 7,
    "depth_divisor": 8,
    "min_depth": None,
    "activation": "swish",
    "include_stem_padding": True,
    "use_depth_divisor_as_min_depth": True,
    "cap_round_filter_decrease": True,
    "stem_conv_padding": "valid",
    "batch_norm_momentum": 0.9,
    "batch_norm_epsilon": 1e-5,
    "projection_activation": None,
    "num_features": 1280,
    "dropout": 0,
}
TENSORFLOW: dict[str, Any] = {
    "include_stem_padding": False,
    "stem_conv_padding": "same",
    "batch_norm_epsilon": 1e-3,
    "stackwise_block_types": ["v1"] + ["unfused"] * 6,
}
# Of each stack the type of its blocks, kernel, stride, expansion, channels, blocks and squeezed.
Stacks = Sequence[tuple[str, int, int, int, int, int, float]]


def variant(
    stem: int,
    stacks: Stacks,
    width: float = 1.0,
    depth: float | Sequence[float] = 1.0,
    **others: Any,
) -> dict[str, Any]:
    kinds, kernels, strides, expansions, filters, repeats, squeezed = zip(*stacks)
    depths = [depth] * len(stacks) if isinstance(depth, float) else list(depth)
    return {
        "stackwise_width_coefficients": [width] * len(stacks),
        "stackwise_depth_coefficients": depths,
        "stackwise_kernel_sizes": list(kernels),
        "stackwise_num_repeats": list(repeats),
        "stackwise_input_filters": [stem, *filters[:-1]],
        "stackwise_output_filters": list(filters),
        "stackwise_expansion_ratios": list(expansions),
        "stackwise_squeeze_and_excite_ratios": list(squeezed),
        "stackwise_strides": list(strides),
        "stackwise_block_types": list(kinds),
        "stackwise_force_input_filters": [0] * len(stacks),
        **COMMON,
        **others,
    }


def v1_stacks(se_ratio: float, width: float = 1.0) -> Stacks:
    return [
        ("v1", kernel, stride, expansion, adjust_channels(filters * width), repeats, se_ratio)
        for kernel, stride, expansion, filters, repeats in (
            (3, 1, 1, 16, 1),
            (3, 2, 6, 24, 2),
            (5, 2, 6, 40, 2),
            (3, 2, 6, 80, 3),
            (5, 1, 6, 112, 3),
            (5, 2, 6, 192, 4),
            (3, 1, 6, 320, 1),
        )
    ]


def lite(width: float, depth: float) -> dict[str, Any]:
    """Stem and output are not scaled, nor are the numbers of blocks of the outer stacks."""
    depths = [1.0, *[depth] * 5, 1.0]
    return variant(32, v1_stacks(0, width), depth=depths, activation="relu6")


def edge(width: float, depth: float) -> dict[str, Any]:
    stacks: Stacks = (
        ("fused", 3, 1, 4, 24, 1, 0),
        ("fused", 3, 2, 8, 32, 2, 0),
        ("fused", 3, 2, 8, 48, 4, 0),
        ("v1", 5, 2, 8, 96, 5, 0),
        ("v1", 5, 1, 8, 144, 4, 0),
        ("v1", 5, 2, 8, 192, 2, 0),
    )
    return variant(
        32,
        stacks,
        width,
        depth,
        stackwise_force_input_filters=[24, 0, 0, 0, 0, 0],
        stackwise_nores_option=[True] + [False] * 5,
        activation="relu",
    )


def v2(
    filters: Sequence[int], repeats: Sequence[int], first: str = "cba", **others: Any
) -> dict[str, Any]:
    kinds = [first, "fused", "fused", *["v1"] * (len(filters) - 3)]
    strides, expansions = (1, 2, 2, 2, 1, 2, 1), (1, 4, 4, 4, 6, 6, 6)
    stacks: Stacks = [
        (kind, 3, stride, expansion, channels, blocks, 0.25 if kind == "v1" else 0)
        for kind, stride, expansion, channels, blocks in zip(
            kinds, strides, expansions, filters, repeats
        )
    ]
    return variant(filters[0], stacks, activation="silu", **others)


V1: dict[str, dict[str, Any]] = {}
for kind, (width, depth) in SCALES.items():
    V1[f"efficientnet_{kind}"] = variant(32, v1_stacks(0.25), width, depth)
    V1[f"tf_efficientnet_{kind}"] = {**V1[f"efficientnet_{kind}"], **TENSORFLOW}
for kind, (width, depth) in LITE.items():
    V1[f"efficientnet_{kind}"] = lite(width, depth)
    V1[f"tf_efficientnet_{kind}"] = {**V1[f"efficientnet_{kind}"], **TENSORFLOW}

RW: dict[str, Any] = {
    "filters": (24, 48, 64, 128, 160, 272),
    "repeats": (2, 4, 4, 6, 9, 15),
    "first": "fused",
    "num_features": 1792,
}
FUSED = {
    "efficientnet_es": edge(1.0, 1.0),
    "efficientnet_em": edge(1.0, 1.1),
    "efficientnet_el": edge(1.2, 1.4),
    "efficientnet_es_pruned": edge(1.0, 1.0),
    "efficientnet_el_pruned": edge(1.2, 1.4),
    "efficientnetv2_rw_s": v2(**RW),
    "efficientnetv2_rw_m": v2(**RW, width=1.2, depth=[1.2] * 4 + [1.6] * 2),
}
SMALL = ((24, 48, 64, 128, 160, 256), (2, 4, 4, 6, 9, 15))
LARGE = (32, 64, 96, 192)
V2 = {
    "efficientnetv2_rw_t": v2(*SMALL, width=0.8, depth=0.9),
    "efficientnetv2_s": v2(*SMALL),
    "efficientnetv2_m": v2((24, 48, 80, 160, 176, 304, 512), (3, 5, 5, 7, 14, 18, 5)),
    "efficientnetv2_l": v2((*LARGE, 224, 384, 640), (4, 7, 7, 10, 19, 25, 7)),
    "efficientnetv2_xl": v2((*LARGE, 256, 512, 640), (4, 8, 8, 16, 24, 32, 8)),
}

SQUEEZE = (*layer("se.conv_reduce", "se.se_conv1"), *layer("se.conv_expand", "se.se_conv2"))
SEPARABLE = (
    *pair("conv_dw", "bn1", ("depthwise", "bn2")),
    *SQUEEZE,
    *pair("conv_pw", "bn2", ("output_conv", "bn3")),
)
INVERTED = (
    *pair("conv_pw", "bn1", ("conv1", "bn1")),
    *pair("conv_dw", "bn2", ("depthwise", "bn2")),
    *SQUEEZE,
    *pair("conv_pwl", "bn3", ("output_conv", "bn3")),
)
EDGE = (
    *pair("conv_exp", "bn1", ("conv1", "bn1")),
    *SQUEEZE,
    *pair("conv_pwl", "bn2", ("output_conv", "bn2")),
)
CONV = pair("conv", "bn1", ("conv1", "bn1"))
# For training, of one value only, or said by others.
UNUSED = Key(
    {},
    ("dropout", "data_format", "width_coefficient", "depth_coefficient"),
    lambda: (),
    lambda *_: (),
)


def table(variants: dict[str, dict[str, Any]], *first: tuple[Rule, ...]) -> Table:
    """Of models that have these blocks in their first stacks, and inverted residuals behind."""
    blocks = [*first, *[INVERTED] * (7 - len(first))]
    return Table(
        backbone=EfficientNetBackbone,
        variants=variants,
        config=(replace(CHANNELS, ours=("input_shape",)), UNUSED),
        weights=(
            *pair("conv_stem", "bn1", ("stem_conv", "stem_bn")),
            *(
                one
                for i, rules in enumerate(blocks)
                for one in under(f"blocks.{i}.{{}}.", f"blocks.{i}.{{}}.", rules)
            ),
            *pair("conv_head", "bn2", ("top_conv", "top_bn")),
        ),
        dropped=("*.num_batches_tracked", "classifier.*"),
    )


TABLES = (table(V1, SEPARABLE), table(FUSED, EDGE, EDGE, EDGE), table(V2, CONV, EDGE, EDGE))
