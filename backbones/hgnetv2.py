"""PP-HGNetV2, the convolutional network of RT-DETR and D-FINE (arXiv:2304.08069)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ._backbone import Backbone
from ._configuration import snake_case
from ._inputs import Images
from .layers.convolution import (
    BatchNormalization,
    Conv2D,
    channels_back,
    channels_first,
    check_data_format,
)
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import Kind, Layout, Stack
from .layers.vision import check_equally_long, check_images, image_channels

ACTIVATIONS: dict[str | None, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    None: nn.Identity,
}


class HGNetV2LearnableAffineBlock(Layer):
    """A factor and an offset, one each for all channels."""

    compute_dtype: torch.dtype | None = None
    keras_shapes: ClassVar = {"scale": (), "bias": ()}

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))  # FSDP cannot shard a scalar
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or self.scale.dtype
        return self.scale.to(dtype) * x.to(dtype) + self.bias.to(dtype)


class HGNetV2ConvLayer(Layer, nn.Sequential):
    """Convolution, norm, activation and, if `affine`, a learnable affine block."""

    layout = Layout(prefix="{}_", attributes={"conv": "convolution", "bn": "normalization"})

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        groups: int = 1,
        activation: str | None = "relu",
        affine: bool = False,
    ) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv = Conv2D(
            channels, filters, kernel_size, strides, padding, groups=groups, use_bias=False
        )
        self.bn = BatchNormalization(filters, epsilon=1e-5, momentum=0.9)
        self.act = ACTIVATIONS[activation]()
        if affine:
            self.lab = HGNetV2LearnableAffineBlock()


class HGNetV2ConvLayerLight(Layer, nn.Sequential):
    """A 1 × 1 convolution, then a depthwise one."""

    layout = Layout(prefix="{}_", attributes={"conv1": "conv1_layer", "conv2": "conv2_layer"})

    def __init__(self, channels: int, filters: int, kernel_size: int, affine: bool) -> None:
        super().__init__()
        self.conv1 = HGNetV2ConvLayer(channels, filters, 1, activation=None)
        self.conv2 = HGNetV2ConvLayer(filters, filters, kernel_size, groups=filters, affine=affine)


class HGNetV2Embeddings(Layer):
    """The stem: 2 × 2 convolutions beside a 2 × 2 max-pool, between two strides of 2."""

    layout = Layout(
        prefix="{}_",
        attributes={f"stem{i}": f"stem{i}_layer" for i in ("1", "2a", "2b", "3", "4")},
    )

    def __init__(
        self, channels: int, stem_channels: Sequence[int], activation: str | None, affine: bool
    ) -> None:
        super().__init__()

        def conv(inputs: int, filters: int, kernel_size: int, strides: int) -> HGNetV2ConvLayer:
            return HGNetV2ConvLayer(
                inputs, filters, kernel_size, strides, activation=activation, affine=affine
            )

        _, middle, out = stem_channels
        self.stem1 = conv(channels, middle, 3, 2)
        self.stem2a = conv(middle, middle // 2, 2, 1)
        self.stem2b = conv(middle // 2, middle, 2, 1)
        self.stem3 = conv(2 * middle, middle, 3, 2)
        self.stem4 = conv(middle, out, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(self.stem1(x), (0, 1, 0, 1))
        y = F.pad(self.stem2a(x), (0, 1, 0, 1))
        x = torch.cat((F.max_pool2d(x, 2, 1), self.stem2b(y)), 1)
        return self.stem4(self.stem3(x))


class HGNetV2BasicLayer(Layer):
    """Convolutions in a row, whose input and outputs together are brought to `filters` channels."""

    layout = Layout(
        prefix="{}_",
        attributes={
            "layers": "layer_list",
            "agg_squeeze": "aggregation_squeeze_conv",
            "agg_excite": "aggregation_excitation_conv",
        },
    )

    def __init__(
        self,
        channels: int,
        middle: int,
        filters: int,
        num_layers: int,
        kernel_size: int,
        residual: bool,
        light: bool,
        affine: bool,
    ) -> None:
        super().__init__()
        self.residual = residual
        make = HGNetV2ConvLayerLight if light else HGNetV2ConvLayer
        widths = [channels] + [middle] * num_layers
        self.layers = Stack(
            "light_block_{}" if light else "conv_block_{}",
            (make(width, middle, kernel_size, affine=affine) for width in widths[:num_layers]),
        )
        self.agg_squeeze = HGNetV2ConvLayer(sum(widths), filters // 2, 1, affine=affine)
        self.agg_excite = HGNetV2ConvLayer(filters // 2, filters, 1, affine=affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [x]
        for layer in self.layers:
            seen.append(layer(seen[-1]))
        y = self.agg_excite(self.agg_squeeze(torch.cat(seen, 1)))
        return x + y if self.residual else y


class HGNetV2Stage(Layer):
    """Blocks of one resolution, behind a depthwise convolution of stride 2 if `downsample`.

    Args:
        numbers: as in `HGNetV2Backbone`.
    """

    layout = Layout(
        prefix="{}_", attributes={"downsample": "downsample_layer", "blocks": "blocks_list"}
    )

    def __init__(
        self, channels: int, numbers: Sequence[int], downsample: bool, light: bool, affine: bool
    ) -> None:
        super().__init__()
        inputs, middle, filters, num_blocks, num_layers, kernel_size = numbers
        self.downsample: nn.Module = nn.Identity()
        if downsample:
            self.downsample = HGNetV2ConvLayer(
                channels, inputs, 3, 2, groups=inputs, activation=None
            )
            channels = inputs
        widths = [channels] + [filters] * num_blocks
        self.blocks = Stack(
            "block_{}",
            (
                HGNetV2BasicLayer(
                    width, middle, filters, num_layers, kernel_size, i > 0, light, affine
                )
                for i, width in enumerate(widths[:num_blocks])
            ),
        )
        self.channels = widths[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class HGNetV2Encoder(Layer):
    """Stages; what enters the first one and what each gives."""

    layout = Layout(prefix="{}_", attributes={"stages": "stages_list"})

    def __init__(self, stages: Sequence[HGNetV2Stage]) -> None:
        super().__init__()
        self.stages = Stack("stage_{}", stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        seen = [x]
        for stage in self.stages:
            seen.append(stage(seen[-1]))
        return seen


class HGNetV2Backbone(Backbone):
    """Convolutional network whose blocks join the outputs of all their layers.

    `pixel_values_input` `[batch, height, width, channels]` → `stem`, a quarter of the image's
    resolution, and `stage1`, `stage2`, … (of which `out_features` chooses some).

    Args:
        depths, embedding_size, hidden_sizes: without effect; what they say is in
            `stackwise_stage_filters` and `stem_channels`.
        stem_channels: channels of the images (without effect), in the stem and behind it.
        hidden_act: activation of the stem, `relu`, `gelu`, `tanh` or `None`; elsewhere it is ReLU.
        use_learnable_affine_block: whether a learnable factor and offset follow activations.
        stackwise_stage_filters: of each stage, six numbers: the channels of its downsampling
            (otherwise without effect), of its layers and of its output; blocks; layers of each
            block; the side of their kernels in pixels, which is odd.
        apply_downsample: whether each stage begins with a stride of 2.
        use_lightweight_conv_block: whether the layers of each stage are depthwise convolutions
            behind 1 × 1 ones.
        image_shape: height, width and channels in the order of `data_format`; only the channels
            have an effect, and `None` of them is 3.
        data_format: `channels_last` or `channels_first`, of images and outputs; `None` for the
            first.
        out_features: names of the outputs; all by default.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: arguments of different lengths, unknown names, numbers that are too small, even
            kernels, a downsampling whose channels do not divide those before it, or images of other
            channels than those of `image_shape`.
    """

    def __init__(
        self,
        depths: Sequence[int],
        embedding_size: int,
        hidden_sizes: Sequence[int],
        stem_channels: Sequence[int],
        hidden_act: str | None,
        use_learnable_affine_block: bool,
        stackwise_stage_filters: Sequence[Sequence[int]],
        apply_downsample: Sequence[bool],
        use_lightweight_conv_block: Sequence[bool],
        image_shape: Sequence[int | None] = (None, None, 3),
        data_format: str | None = None,
        out_features: Sequence[str] | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_equally_long(
            stackwise_stage_filters=stackwise_stage_filters,
            apply_downsample=apply_downsample,
            use_lightweight_conv_block=use_lightweight_conv_block,
        )
        if len(stem_channels) != 3 or stem_channels[1] < 2 or stem_channels[2] < 1:
            raise ValueError(
                f"stem_channels={stem_channels} must be three positive numbers, the second at "
                "least 2."
            )
        if hidden_act not in ACTIVATIONS:
            known = ", ".join(map(repr, ACTIVATIONS))
            raise ValueError(f"hidden_act={hidden_act!r} must be one of {known}.")
        width = stem_channels[2]
        for i, (numbers, strided) in enumerate(zip(stackwise_stage_filters, apply_downsample)):
            check_stage(f"stackwise_stage_filters[{i}]", numbers, width if strided else None)
            inputs, _, filters, blocks, *_ = numbers
            width = filters if blocks else inputs if strided else width
        names = ["stem", *(f"stage{i + 1}" for i in range(len(stackwise_stage_filters)))]
        self.out_features = names if out_features is None else out_features
        if not self.out_features or not set(self.out_features) <= set(names):
            raise ValueError(f"out_features={out_features} must be among {', '.join(names)}.")
        self.data_format = check_data_format(data_format)
        self.channels = image_channels(image_shape, self.data_format)
        # Keras's layers have a name that the model is given before theirs. Where it is the one that
        # presets have of a model without a name, so it is here.
        self.named = self.name != snake_case(HGNetV2Backbone.__name__)
        self.stage_names = names
        affine = use_learnable_affine_block
        self.embedder = HGNetV2Embeddings(self.channels, stem_channels, hidden_act, affine)
        stages: list[HGNetV2Stage] = []
        width = stem_channels[2]
        for numbers, strided, light in zip(
            stackwise_stage_filters, apply_downsample, use_lightweight_conv_block
        ):
            stages.append(HGNetV2Stage(width, numbers, strided, light, affine))
            width = stages[-1].channels
        self.encoder = HGNetV2Encoder(stages)

    @property
    def layout(self) -> Layout:
        return Layout(Kind.GRAPH, prefix="{}_" if self.named else "")

    def forward(self, pixel_values_input: Images) -> dict[str, torch.Tensor]:
        check_images(pixel_values_input, self.data_format, self.channels)
        x = self.embedder(channels_first(pixel_values_input, self.data_format))
        return {
            name: channels_back(y, self.data_format)
            for name, y in zip(self.stage_names, self.encoder(x))
            if name in self.out_features
        }


def check_stage(where: str, numbers: Sequence[int], channels: int | None) -> None:
    """Refuse what is no stage.

    Args:
        channels: those that a downsampling gets, if there is one.

    Raises:
        ValueError: not six numbers, channels that are too few, an even kernel, or channels that the
            first one does not divide.
    """
    if len(numbers) != 6:
        raise ValueError(f"{where}={numbers} must be six numbers.")
    first, middle, filters, blocks, layers, kernel_size = numbers
    if min(first, middle, filters - 1) < 1 or min(blocks, layers) < 0:
        raise ValueError(
            f"{where}={numbers} must begin with positive numbers of channels, the third at least 2."
        )
    if kernel_size % 2 == 0:
        raise ValueError(f"{where}={numbers} has an even kernel, {kernel_size}; it must be odd.")
    if channels is not None and channels % first:
        raise ValueError(
            f"{where}={numbers} begins with {first}, which must divide the {channels} channels "
            "before it, where it is downsampled."
        )
