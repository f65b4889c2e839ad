"""PP-HGNetV2."""

from __future__ import annotations

from typing import Any

from ...backbones.hgnetv2 import HGNetV2Backbone
from ..checkpoints.table import Key, Table, override, rule, under
from .resnet import CHANNELS, pair
from .vgg import WITHOUT_HEAD

# Channels in the stem, and of each stage those of its layers and of its output, then its blocks and
# the layers of each; the first stage's input has the channels of its layers.
Stages = tuple[tuple[int, int, int, int], ...]
AFFINE: dict[str, tuple[int, Stages]] = {
    "hgnetv2_b0": (16, ((16, 64, 1, 3), (32, 256, 1, 3), (64, 512, 2, 3), (128, 1024, 1, 3))),
    "hgnetv2_b1": (24, ((32, 64, 1, 3), (48, 256, 1, 3), (96, 512, 2, 3), (192, 1024, 1, 3))),
    "hgnetv2_b2": (24, ((32, 96, 1, 4), (64, 384, 1, 4), (128, 768, 3, 4), (256, 1536, 1, 4))),
    "hgnetv2_b3": (24, ((32, 128, 1, 5), (64, 512, 1, 5), (128, 1024, 3, 5), (256, 2048, 1, 5))),
}
PLAIN: dict[str, tuple[int, Stages]] = {
    "hgnetv2_b4": (32, ((48, 128, 1, 6), (96, 512, 1, 6), (192, 1024, 3, 6), (384, 2048, 1, 6))),
    "hgnetv2_b5": (32, ((64, 128, 1, 6), (128, 512, 2, 6), (256, 1024, 5, 6), (512, 2048, 2, 6))),
    "hgnetv2_b6": (48, ((96, 192, 2, 6), (192, 512, 3, 6), (384, 1024, 6, 6), (768, 2048, 3, 6))),
}


def variant(stem: int, stages: Stages, affine: bool) -> dict[str, Any]:
    first = stages[0][0]
    inputs = [first, *(filters for _, filters, _, _ in stages)]
    kernels = [3, 3, 5, 5]
    return {
        "depths": [blocks for _, _, blocks, _ in stages],
        "embedding_size": first,
        "hidden_sizes": [filters for _, filters, _, _ in stages],
        "stem_channels": [3, stem, first],
        "hidden_act": "relu",
        "use_learnable_affine_block": affine,
        "stackwise_stage_filters": [
            [width, *stage, size] for width, stage, size in zip(inputs, stages, kernels)
        ],
        "apply_downsample": [False, True, True, True],
        "use_lightweight_conv_block": [False, False, True, True],
    }


CONV = (
    *pair("conv", "bn", ("conv", "bn")),
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
WEIGHTS = (
    *(
        one
        for i in ("1", "2a", "2b", "3", "4")
        for one in under(f"stem.stem{i}.", f"embedder.stem{i}.", CONV)
    ),
    *under("stages.{}.downsample.", "encoder.stages.{}.downsample.", CONV),
    *under("stages.{}.blocks.{}.", "encoder.stages.{}.blocks.{}.", BLOCK),
)
# timm gives the features of all stages, whichever are chosen here.
FEATURES = Key({}, ("out_features",), lambda: (None,), lambda names: ())
HEADS = ("*.num_batches_tracked", "head.*")
# KerasHub goes by the tag of the training, where timm's code says which models are affine.
LARGE = Table(
    backbone=HGNetV2Backbone,
    variants={kind: variant(*sizes, affine=False) for kind, sizes in PLAIN.items()},
    config=(
        CHANNELS,
        FEATURES,
        WITHOUT_HEAD,
        override("model_args.use_lab", "use_learnable_affine_block"),
    ),
    weights=WEIGHTS,
    dropped=HEADS,
)
SMALL = Table(
    backbone=HGNetV2Backbone,
    variants={kind: variant(*sizes, affine=True) for kind, sizes in AFFINE.items()},
    config=(CHANNELS, FEATURES, WITHOUT_HEAD),
    weights=WEIGHTS,
    dropped=HEADS,
)
TABLES = (LARGE, SMALL)
