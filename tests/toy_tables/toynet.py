"""ToyNet: stacks of dense layers, known by names to timm, which counts from 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from keras_hub_torch.models import Backbone
from keras_hub_torch.presets.checkpoints.table import (
    FUSE,
    Table,
    constant,
    norm,
    override,
    rule,
    under,
)


class ToyNetBackbone(Backbone):
    """Not much."""

    def __init__(
        self,
        stackwise_num_repeats: Sequence[int],
        growth: int,
        image_size: int,
        use_bias: bool = False,
        dtype: str | None = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable=trainable, name=name)
        for i, repeats in enumerate(stackwise_num_repeats):
            layers = [
                nn.ModuleDict(
                    {
                        "left": nn.Linear(growth, growth, bias=False),
                        "right": nn.Linear(growth, growth, bias=False),
                        "bn": nn.BatchNorm1d(growth),
                    }
                )
                for _ in range(repeats)
            ]
            for layer in layers:
                del layer["bn"]._buffers["num_batches_tracked"]
            self.add_module(f"stack{i}", nn.ModuleList(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def variant(repeats: Sequence[int], growth: int = 4, image_size: int = 8) -> dict[str, object]:
    return {"stackwise_num_repeats": repeats, "growth": growth, "image_size": image_size}


LAYER = (rule("conv.weight", ("left.weight", "right.weight"), FUSE), *norm("norm", "bn"))
TOYNET = Table(
    backbone=ToyNetBackbone,
    variants={
        "toynet_small": variant([1, 2]),
        "toynet_small_again": variant([1, 2]),
        "toynet_small_16": variant([1, 2], image_size=16),
        "toynet_wide": variant([1, 2], growth=6),
        "toynet_large": variant([2, 1, 3]),
    },
    config=(
        override("model_args.img_size", "image_size", save=lambda size: [size, size], load=min),
        constant(use_bias=False),
    ),
    weights=under("features.denseblock{+1}.denselayer{+1}.", "stack{}.{}.", LAYER),
    dropped=("classifier.*", "*.num_batches_tracked"),
)
TABLES = (TOYNET,)
