"""DenseNet.

timm pads the stem by the same number of pixels on each side, KerasHub as "same" does; they agree
where a side is a multiple of four and one, and else are half a pixel apart.
"""

from __future__ import annotations

from ...backbones.densenet import DenseNetBackbone
from ..checkpoints.table import Table, constant, norm, rule, under
from .resnet import CHANNELS_LAST, pair

REPEATS = {"121": [6, 12, 24, 16], "169": [6, 12, 32, 32], "201": [6, 12, 48, 32]}
LAYER = (*pair("conv1", "norm1", ("conv1", "bn1")), *pair("conv2", "norm2", ("conv2", "bn2")))
DENSENET = Table(
    backbone=DenseNetBackbone,
    variants={
        f"densenet{depth}": {"stackwise_num_repeats": repeats} for depth, repeats in REPEATS.items()
    },
    config=(CHANNELS_LAST, constant(compression_ratio=0.5, growth_rate=32)),
    weights=under(
        "features.",
        "",
        (
            *pair("conv0", "norm0", ("stem.conv1_conv", "stem.conv1_bn")),
            *under("denseblock{}.denselayer{+1}.", "stack{}.{}.", LAYER),
            rule("transition{}.conv.weight", "transition{}.conv.weight"),
            *norm("transition{}.norm", "transition{}.bn"),
            *norm("norm5", "bn"),
        ),
    ),
    dropped=("*.num_batches_tracked", "classifier.*"),
)
TABLES = (DENSENET,)
