"""VGG, without batch norm: KerasHub has none."""

from __future__ import annotations

from ...backbones.vgg import VGGBackbone
from ..checkpoints.table import Key, Rule, Table, layer
from .resnet import CHANNELS_LAST

REPEATS = {
    "vgg11": [1, 1, 2, 2, 2],
    "vgg13": [2, 2, 2, 2, 2],
    "vgg16": [2, 2, 3, 3, 3],
    "vgg19": [2, 2, 4, 4, 4],
}


# timm's model keeps a part of its head where there are no classes; it reads a checkpoint without it
# as one of another number of classes.
WITHOUT_HEAD = Key(
    {"num_classes": None, "model_args.num_classes": None, "pretrained_cfg.classifier": None},
    (),
    lambda *values: (),
    lambda: (-1, 0, "head.fc"),
)


def weights(repeats: list[int]) -> tuple[Rule, ...]:
    """timm counts convolutions, ReLUs and pools in one."""
    rules: list[Rule] = []
    place = 0
    for i, convs in enumerate(repeats, start=1):
        for j in range(convs):
            rules += layer(f"features.{place}", f"block{i}.{j}")
            place += 2
        place += 1
    return tuple(rules)


TABLES = tuple(
    Table(
        backbone=VGGBackbone,
        variants={
            kind: {
                "stackwise_num_repeats": repeats,
                "stackwise_num_filters": [64, 128, 256, 512, 512],
            }
        },
        config=(CHANNELS_LAST, WITHOUT_HEAD),
        weights=weights(repeats),
        ignored=("model_args.mlp_ratio",),  # the head's
        dropped=("pre_logits.*", "head.*"),
    )
    for kind, repeats in REPEATS.items()
)
