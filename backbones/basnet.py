"""BASNet (arXiv:2101.04704): boundary-aware segmentation, predicted and then refined."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ._backbone import Backbone, FeaturePyramidBackbone
from ._configuration import snake_case
from ._inputs import Images
from .layers.convolution import BatchNormalization, Conv2D, channels_back, channels_first, resize
from .layers.dtypes import DTypeLike, DTypePolicy
from .layers.heads import DefaultHeads, build_head, output_channels
from .layers.layer import Layer
from .layers.layout import Kind, Layout, Stack, apart
from .layers.pyramid import own_dtype
from .layers.vision import check_images, image_channels

# What each predicted map is enlarged by, the finest first.
SCALES = (1, 2, 4, 8, 16, 32, 32)
STAGES = ("stack0", "stack1", "stack2", "stack3")


class ConvBlock(Layer, nn.Sequential):
    """3 × 3 convolution, norm and ReLU."""

    layout = Layout(group="{child}")

    def __init__(self, inputs: int, filters: int, dilation: int = 1) -> None:
        super().__init__(
            Conv2D(inputs, filters, 3, padding="same", dilation=dilation),
            BatchNormalization(filters),
            nn.ReLU(inplace=True),
        )


class ConvBlocks(Layer, nn.Sequential):
    """Three of them."""

    layout = Layout(group="{child}")

    def __init__(self, inputs: int, filters: int, dilation: int = 1) -> None:
        widths = (inputs, filters, filters)
        super().__init__(*(ConvBlock(width, filters, dilation) for width in widths))


class ResidualBlock(Layer):
    """Two 3 × 3 convolutions, added to what comes in."""

    layout = Layout(
        attributes={"conv1": "1_conv", "bn1": "1_bn", "conv2": "2_conv", "bn2": "2_bn"},
        group="{group}_{child}",
    )

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv2D(channels, channels, 3, padding="same", use_bias=False)
        self.bn1 = BatchNormalization(channels, 1e-5, 0.9)
        self.conv2 = Conv2D(channels, channels, 3, padding="same", use_bias=False)
        self.bn2 = BatchNormalization(channels, 1e-5, 0.9)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(x + y)


class Refinement(Layer):
    """A small U-Net. `[b, c, h, w]` → `[b, filters, h, w]`."""

    layout = Layout(group="{child}", unnamed=("stem",))

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.stem = Conv2D(channels, filters, 3, padding="same")
        self.encoder = Stack("encoder{}", (ConvBlock(filters, filters) for _ in range(4)))
        self.bridge = ConvBlock(filters, filters)
        self.decoder = Stack("decoder{}", (ConvBlock(2 * filters, filters) for _ in range(4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        maps = []
        for block in self.encoder:
            x = block(x)
            maps.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bridge(x)
        for block in self.decoder:
            x = block(beside(maps.pop(), x))
        return x


def beside(fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """A map and one of half its size, enlarged."""
    # Of a single pixel torch cannot tell the memory order.
    coarse = resize(coarse, fine.shape[2:]).contiguous(memory_format=torch.channels_last)
    return torch.cat((fine, coarse), 1)


class BASNetBackbone(Backbone):
    """A ResNet and a decoder that predict maps of several resolutions, and a network that refines
    the finest.

    Images `[batch, height, width, channels]` → `refine_out` and `predict_out_1` to
    `predict_out_7`, probabilities `[batch, height, width, num_classes]`.

    Args:
        image_encoder: a ResNet of at least four stacks, without `use_pre_activation`. Its stem is
            not used, and its stacks are given what stands before the ReLU of the one below.
        num_classes: channels of each map.
        image_shape: height, width and channels; only the channels have an effect, and `None` of
            them is 3.
        projection_filters: channels that images are projected to, those of the encoder's stem; the
            decoder has eight times as many.
        prediction_heads: a serialized `keras.Sequential` for each predicted map, up to seven; by
            default a 3 × 3 convolution, then enlargement to the size of the first.
        refinement_head: the same for what is added to the first map; by default a 3 × 3
            convolution.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an encoder of another kind, other channels or its own `image_shape`, heads that
            are not understood, images of other channels, or of a size that cannot be halved five
            times.
    """

    def __init__(
        self,
        image_encoder: FeaturePyramidBackbone,
        num_classes: int,
        image_shape: Sequence[int | None] = (None, None, 3),
        projection_filters: int = 64,
        prediction_heads: Sequence[Mapping[str, Any]] | None = None,
        refinement_head: Mapping[str, Any] | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.channels = image_channels(image_shape, "channels_last")
        check_resnet(image_encoder, projection_filters)
        levels = image_encoder.levels[:4]
        self.stride = levels[0].stride // 4
        self.blank_side = 32 * self.stride
        filters = 8 * projection_filters
        # KerasHub makes all heads first, one after the other.
        default = DefaultHeads(num_classes, DTypePolicy.get(dtype))
        if prediction_heads is None:
            self.prediction_heads = [default(filters, scale) for scale in SCALES]
        if refinement_head is None:
            self.refinement_head = default(projection_filters, 1)
        if not 1 <= len(self.prediction_heads) <= len(SCALES):
            raise ValueError(
                f"prediction_heads must be 1 to {len(SCALES)}, not {len(self.prediction_heads)}."
            )
        heads = [
            build_head(head, filters, f"prediction_heads[{i}]")
            for i, head in enumerate(self.prediction_heads)
        ]
        predicted = output_channels(heads[0], filters)

        # In the order of Keras's graph.
        self.stem = Conv2D(self.channels, projection_filters, 3, padding="same")
        self.image_encoder = own_dtype(image_encoder)
        self.stage5 = residual_stage(5, levels[-1].channels)
        self.stage6 = residual_stage(6, levels[-1].channels)
        self.bridge = ConvBlocks(levels[-1].channels, filters, 2)
        widths = [level.channels for level in (*levels, levels[-1], levels[-1])]
        self.decoder = Stack(
            "decoder{}", (ConvBlocks(width + filters, filters) for width in reversed(widths))
        )
        self.predict_out_1 = heads[0]
        self.refinement = Refinement(predicted, projection_filters)
        self.refine_out = build_head(self.refinement_head, projection_filters, "refinement_head")
        for i, head in enumerate(heads[1:], start=2):
            self.add_module(f"predict_out_{i}", head)
        self.numbered = automatic([*self.prediction_heads, self.refinement_head])

    @property
    def layout(self) -> Layout:
        def stage(prefix: str) -> Any:
            return lambda name: name.startswith(prefix)

        parts = [stage(f"{stack}_") for stack in STAGES]
        heads = {"refine_out": self.refinement_head}
        heads |= {f"predict_out_{i}": head for i, head in enumerate(self.prediction_heads, start=1)}
        return Layout(
            Kind.GRAPH,
            names={name: head["config"]["name"] for name, head in heads.items()},
            unnamed=("stem", "image_encoder"),
            inside={"image_encoder": lambda own: apart(own, *parts)},
            numbered=self.numbered,
        )

    def forward(self, images: Images) -> dict[str, torch.Tensor]:
        check_images(images, "channels_last", self.channels)
        self.check_size(*images.shape[1:3])
        x = self.stem(channels_first(images, "channels_last"))
        maps = []
        for name in STAGES:
            stack: Any = self.image_encoder.get_submodule(name)
            *blocks, last = stack
            for block in blocks:
                x = block(x)
            x = last(x, activated=False)
            maps.append(x)
        for stage in (self.stage5, self.stage6):
            x = F.max_pool2d(x, 2)
            for block in stage:
                x = block(x)
            maps.append(x)
        x = self.bridge(x)
        decoded = [x]
        for i, blocks in enumerate(self.decoder):
            x = blocks(torch.cat((maps[-1], x), 1) if i == 0 else beside(maps[-1 - i], x))
            decoded.insert(0, x)
        predicted = [
            self.get_submodule(f"predict_out_{i}")(x)
            for i, x in enumerate(decoded[: len(self.prediction_heads)], start=1)
        ]
        refined = predicted[0] + self.refine_out(self.refinement(predicted[0]))
        dtype = self.dtype_policy.compute_dtype
        names = ["refine_out", *(f"predict_out_{i + 1}" for i in range(len(predicted)))]
        return {
            name: channels_back(torch.sigmoid(x.to(dtype)), "channels_last")
            for name, x in zip(names, (refined, *predicted))
        }

    def check_size(self, height: int, width: int) -> None:
        """Refuse images that cannot be halved until the last stage."""
        sizes = [-(-side // self.stride) for side in (height, width)]
        if not torch.compiler.is_compiling() and any(size % 32 for size in sizes):
            raise ValueError(
                f"Images must have a height and a width divisible by {32 * self.stride}, not "
                f"{height} × {width}."
            )


def residual_stage(number: int, channels: int) -> Stack:
    blocks = (ResidualBlock(channels) for _ in range(3))
    return Stack(f"v1_basic_block_{number}_{{}}", blocks, start=1)


def check_resnet(encoder: FeaturePyramidBackbone, projection_filters: int) -> None:
    """Refuse encoders that KerasHub's BASNet cannot be made of."""
    if encoder.class_name != "ResNetBackbone":
        raise ValueError(f"image_encoder must be a ResNetBackbone, not a {encoder.class_name}.")
    has = encoder.arguments
    if has["use_pre_activation"]:
        raise ValueError("image_encoder must have use_pre_activation=False: a ResNet v1.")
    shape = tuple(has["image_shape"])
    if has["data_format"] == "channels_first" or shape != (None, None, 3):
        raise ValueError(
            f"image_encoder must have image_shape=(None, None, 3), channels_last, not {shape}: "
            "image_shape is this model's."
        )
    strides = list(has["stackwise_num_strides"])
    if len(strides) < len(STAGES) or strides[1:4] != [2, 2, 2]:
        raise ValueError(
            f"image_encoder must have at least {len(STAGES)} stacks, with strides of 2 from the "
            f"second on, not stackwise_num_strides={strides}."
        )
    if has["input_conv_filters"][-1] != projection_filters:
        raise ValueError(
            f"projection_filters={projection_filters} must be what the image_encoder's stacks "
            f"take, input_conv_filters[-1]={has['input_conv_filters'][-1]}."
        )


def automatic(heads: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many layers of heads have names as Keras gives them, by class in snake case."""
    layers = [layer for head in heads for layer in (head, *head["config"]["layers"])]
    prefixes = [
        snake_case(layer["class_name"])
        for layer in layers
        if re.sub(r"_\d+$", "", layer["config"]["name"]) == snake_case(layer["class_name"])
    ]
    return dict(Counter(prefixes))
