"""A flat graph of blocks that are no layers, counted from 1 and in letters."""

from __future__ import annotations

from string import ascii_lowercase
from typing import Any

import keras
import torch
from torch import nn
from torch.nn import functional as F

from keras_hub_torch.backbones._backbone import Backbone
from keras_hub_torch.backbones._inputs import Images
from keras_hub_torch.backbones.layers.convolution import BatchNormalization, Conv2D
from keras_hub_torch.backbones.layers.layout import Layout, Stack

CONFIG = {"num_layers": 3, "growth_rate": 4}


class DenseLayer(nn.Module):
    layout = Layout(group="{group}_{child}", attributes={"bn1": "1_bn", "conv1": "1_conv"})

    def __init__(self, channels: int, growth_rate: int) -> None:
        super().__init__()
        self.bn1 = BatchNormalization(channels, 1e-5)
        self.conv1 = Conv2D(channels, growth_rate, 3, padding="same", use_bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, self.conv1(F.relu(self.bn1(x)))), 1)


class ToyDenseNetBackbone(Backbone):
    keras_module = "toys"

    def __init__(
        self,
        num_layers: int,
        growth_rate: int,
        dtype: Any = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.conv1_conv = Conv2D(3, 8, 3, padding="same", use_bias=False)
        widths = [8 + i * growth_rate for i in range(num_layers)]
        self.stack1 = Stack(
            "stack1_block{}", (DenseLayer(width, growth_rate) for width in widths), start=1
        )
        width = widths[-1] + growth_rate
        self.stack2 = Stack(
            lambda i: f"stack2{ascii_lowercase[i]}",
            (DenseLayer(width + i * growth_rate, growth_rate) for i in range(num_layers)),
        )
        self.bn = BatchNormalization(width + num_layers * growth_rate, 1e-5)

    def forward(self, images: Images) -> torch.Tensor:
        x = self.conv1_conv(images.permute(0, 3, 1, 2))
        for layer in (*self.stack1, *self.stack2):
            x = layer(x)
        return F.relu(self.bn(x)).permute(0, 2, 3, 1)


def keras_model(num_layers: int, growth_rate: int) -> Any:
    def conv(x: Any, filters: int, name: str) -> Any:
        return keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)

    def norm(x: Any, name: str) -> Any:
        x = keras.layers.BatchNormalization(epsilon=1e-5, name=name)(x)
        return keras.layers.Activation("relu")(x)

    images = keras.Input((None, None, 3))
    x = conv(images, 8, "conv1_conv")
    names = [f"stack1_block{i + 1}" for i in range(num_layers)]
    for name in [*names, *(f"stack2{ascii_lowercase[i]}" for i in range(num_layers))]:
        y = conv(norm(x, f"{name}_1_bn"), growth_rate, f"{name}_1_conv")
        x = keras.layers.Concatenate(name=f"{name}_concat")([x, y])
    return keras.Model(images, norm(x, "bn"), name="toy_dense_net_backbone")
