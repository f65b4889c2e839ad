"""CSPNet and DarkNet.

Not those whose stem has several convolutions, which KerasHub pads otherwise (`cspresnet50d`,
`cs3darknet_l`, …), those of `cs3` stages, which give other numbers of channels there
(`cs3darknet_focus_l`, …), nor those with squeeze and excitation (`sedarknet21`, …).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...backbones.cspnet import CSPNetBackbone
from ..checkpoints.table import Key, Rule, Table, constant, under
from .resnet import CHANNELS, pair

RESNET = {
    "stem_filters": 64,
    "stem_kernel_size": 7,
    "stem_strides": 4,
    "stem_padding": "valid",
    "stem_pooling": "max",
    "stackwise_depth": [3, 3, 5, 2],
    "stackwise_strides": [1, 2, 2, 2],
    "stage_type": "csp",
    "block_type": "bottleneck_block",
    "down_growth": False,
    "cross_linear": True,
    "avg_down": False,
}
DARKNET = {
    "stem_filters": 32,
    "stem_kernel_size": 3,
    "stem_strides": 1,
    "stem_padding": "same",
    "stem_pooling": None,
    "stackwise_strides": [2, 2, 2, 2, 2],
    "stackwise_num_filters": [64, 128, 256, 512, 1024],
    "block_type": "dark_block",
    "groups": 1,
    "cross_linear": False,
}


def darknet(depths: list[int], avg_down: bool = False) -> dict[str, Any]:
    return {
        **DARKNET,
        "stackwise_depth": depths,
        "stage_type": "dark",
        "bottle_ratio": [0.5],
        "block_ratio": [1.0],
        "expand_ratio": [1.0],
        "down_growth": False,
        "avg_down": avg_down,
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "cspresnet50": {
        **RESNET,
        "stackwise_num_filters": [128, 256, 512, 1024],
        "bottle_ratio": [0.5],
        "block_ratio": [1.0],
        "expand_ratio": [2.0],
        "groups": 1,
    },
    "cspresnext50": {
        **RESNET,
        "stackwise_num_filters": [256, 512, 1024, 2048],
        "bottle_ratio": [1.0],
        "block_ratio": [0.5],
        "expand_ratio": [1.0],
        "groups": 32,
    },
    "cspdarknet53": {
        **DARKNET,
        "stackwise_depth": [1, 2, 8, 8, 4],
        "stage_type": "csp",
        "bottle_ratio": [0.5, 1.0],
        "block_ratio": [1.0, 0.5],
        "expand_ratio": [2.0, 1.0],
        "down_growth": True,
        "avg_down": False,
    },
    "darknet17": darknet([1, 1, 1, 1, 1]),
    "darknet21": darknet([1, 1, 1, 2, 2]),
    "darknet53": darknet([1, 2, 8, 8, 4]),
}
# Their averages, with the channels last; KerasHub takes others where they come first.
AVERAGED = {"darknetaa53": darknet([1, 2, 8, 8, 4], avg_down=True)}

CONV = pair("conv", "bn", ("conv", "bn"))
# Without effect, since no stage's resolution is kept.
UNUSED = Key({}, ("output_strides",), lambda: (), lambda strides: ())
STEM = under("stem.conv{+1}.", "stem.conv_{}.", CONV)
STAGE = (
    *(
        one
        for name in ("conv_exp", "conv_transition_b", "conv_transition")
        for one in under(f"{name}.", f"{name}.", CONV)
    ),
    *under("blocks.{}.conv1.", "blocks.{}.conv1.", CONV),
    *under("blocks.{}.conv2.", "blocks.{}.conv2.", CONV),
    *under("blocks.{}.conv3.", "blocks.{}.conv3.", CONV),
)


def weights(down: str) -> tuple[Rule, ...]:
    stage = (*under(down, "conv_down.", CONV), *STAGE)
    return *STEM, *under("stages.{}.", "stages.{}.", stage)


PLAIN = Table(
    backbone=CSPNetBackbone,
    variants=VARIANTS,
    config=(CHANNELS, UNUSED, constant(activation="leaky_relu")),
    weights=weights("conv_down."),
    dropped=("*.num_batches_tracked", "head.*"),
)
TABLES = (PLAIN, replace(PLAIN, variants=AVERAGED, weights=weights("conv_down.1.")))
