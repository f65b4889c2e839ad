"""EfficientNet: v1 (arXiv:1905.11946), Lite, EdgeTPU and v2 (arXiv:2104.00298)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from ._backbone import FeaturePyramidBackbone
from ._inputs import Images
from .layers.activations import ActivationInPlace
from .layers.convolution import (
    BatchNormalization,
    Conv2D,
    DepthwiseConv2D,
    SamePadding,
    channels_back,
    channels_first,
)
from .layers.dtypes import DTypeLike
from .layers.initializers import variance_scaling
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.pyramid import Level
from .layers.vision import (
    DropPath,
    check_at_least,
    check_choice,
    check_equally_long,
    check_images,
    image_channels,
    smallest_side,
)

KERNEL = variance_scaling(2.0, "fan_out", "truncated_normal")


def conv(
    channels: int, filters: int, kernel_size: int = 1, strides: int = 1, padding: int = 0
) -> Conv2D:
    return Conv2D(
        channels,
        filters,
        kernel_size,
        strides,
        padding,
        use_bias=False,
        kernel_initializer=KERNEL,
    )


@dataclass(frozen=True)
class Scaling:
    """Numbers of channels by a width coefficient, in multiples of `divisor`.

    Attributes:
        capped: whether rounding takes no more than a tenth.
    """

    divisor: int
    least: int
    capped: bool

    def __call__(self, argument: str, filters: int, coefficient: float) -> int:
        """Raises ValueError: no channels are left; it names the argument."""
        wanted = filters * coefficient
        rounded = int(wanted + self.divisor / 2) // self.divisor * self.divisor
        rounded = max(self.least, rounded)
        if self.capped and rounded < 0.9 * wanted:
            rounded += self.divisor
        if rounded < 1:
            raise ValueError(
                f"{argument}={filters} times {coefficient} leaves no channels in multiples of "
                f"depth_divisor={self.divisor} and by min_depth={self.least}."
            )
        return rounded


@dataclass(frozen=True)
class Spec:
    """A block, by KerasHub's arguments.

    Attributes:
        channels: of the input.
        inputs: those that it is taken to have.
        filters: those that the block gives.
        expand_ratio: those within, by `inputs`.
        se_ratio: those that squeeze and excitation leaves of `inputs`.
        skip: whether the input is added where it has the output's shape.
        drop_path: how often the rest is dropped then, in training mode.
        epsilon, momentum: of the norms.
    """

    channels: int
    inputs: int
    filters: int
    kernel_size: int
    strides: int
    expand_ratio: float
    se_ratio: float
    skip: bool
    drop_path: float
    activation: str | None
    projection_activation: str | None
    epsilon: float
    momentum: float

    @property
    def expands(self) -> bool:
        return self.expand_ratio != 1

    @property
    def expanded(self) -> int:
        return round(self.inputs * self.expand_ratio)

    @property
    def squeezed(self) -> int:
        return max(1, int(self.inputs * self.se_ratio)) if 0 < self.se_ratio <= 1 else 0

    @property
    def residual(self) -> bool:
        return self.skip and self.strides == 1 and self.inputs == self.filters

    def norm(self, channels: int) -> BatchNormalization:
        return BatchNormalization(channels, self.epsilon, self.momentum)

    def squeeze_excite(self) -> nn.Module:
        if not self.squeezed:
            return nn.Identity()
        return SqueezeExcite(self.expanded, self.squeezed, self.activation)

    def check(self, stack: int, block_type: str) -> None:
        """Refuse what makes no block.

        Raises:
            ValueError: no whole number of channels, or an input that cannot be added or weighted.
        """
        expanded = self.inputs * self.expand_ratio
        if self.expanded != expanded or expanded < 1:
            raise ValueError(
                f"stackwise_expansion_ratios[{stack}]={self.expand_ratio} must lead from "
                f"{self.inputs} channels to a positive whole number, not {expanded}."
            )
        weighted = self.squeezed and not self.expands and block_type in DEPTHWISE
        if self.channels != self.inputs and (self.residual or weighted):
            raise ValueError(
                f"stackwise_input_filters[{stack}] or stackwise_force_input_filters[{stack}] stand "
                f"for {self.inputs} channels where a block gets {self.channels}, and its input is "
                "added or weighted: they must be equal."
            )
        padded_same = block_type == "unfused" and self.expands
        if self.residual and self.kernel_size % 2 == 0 and not padded_same:
            raise ValueError(
                f"stackwise_kernel_sizes[{stack}]={self.kernel_size} must be odd in blocks that "
                "add their input, those of stride 1 that keep the number of channels."
            )
        if self.residual and not 0 <= self.drop_path < 1:
            raise ValueError(f"dropout must lead to rates from 0 to below 1, not {self.drop_path}.")


class SqueezeExcite(Layer):
    """Channels weighted by what the whole map says of them (arXiv:1709.01507)."""

    layout = Layout(names={"se_conv1": "reduce", "se_conv2": "expand"}, group="{group}_{child}")

    def __init__(self, channels: int, squeezed: int, activation: str | None) -> None:
        super().__init__()
        self.se_conv1 = Conv2D(channels, squeezed, 1, kernel_initializer=KERNEL)
        self.act = ActivationInPlace(activation)
        self.se_conv2 = Conv2D(squeezed, channels, 1, kernel_initializer=KERNEL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squeezed = self.act(self.se_conv1(x.mean((2, 3), keepdim=True)))
        return x * self.se_conv2(squeezed).sigmoid()


class Block(Layer):
    """What blocks share: their input is added to what they compute, if that has its shape."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.residual = spec.residual
        self.drop = DropPath(spec.drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(self.compute(x)) if self.residual else self.compute(x)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class InvertedResidual(Block):
    """To more channels, each of them by itself, and back.

    Args:
        same: whether strides are padded as Keras's "same", not by half of the kernel on each side.
        project_size: side of the last kernel.
    """

    def __init__(self, spec: Spec, same: bool, project_size: int, last: str | None) -> None:
        super().__init__(spec)
        width = spec.expanded if spec.expands else spec.channels
        self.conv1 = conv(spec.channels, width) if spec.expands else nn.Identity()
        self.bn1 = spec.norm(width) if spec.expands else nn.Identity()
        self.act1 = ActivationInPlace(spec.activation if spec.expands else None)
        size, strides = spec.kernel_size, spec.strides
        ahead = same and strides > 1
        self.pad = SamePadding(size, strides) if ahead else nn.Identity()
        padding = (0 if ahead else "same") if same else size // 2
        self.depthwise = DepthwiseConv2D(
            width, size, strides, padding, use_bias=False, kernel_initializer=KERNEL
        )
        self.bn2 = spec.norm(width)
        self.act2 = ActivationInPlace(spec.activation)
        self.se = spec.squeeze_excite()
        self.output_conv = conv(width, spec.filters, project_size, padding=project_size // 2)
        self.bn3 = spec.norm(spec.filters)
        self.act3 = ActivationInPlace(last)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.depthwise(self.pad(x))))
        return self.act3(self.bn3(self.output_conv(self.se(x))))


class EfficientNetBlock(InvertedResidual):
    """As in v1."""

    layout = Layout(
        attributes={
            "conv1": "expand_conv",
            "bn1": "expand_bn",
            "depthwise": "dwconv",
            "bn2": "dwconv_bn",
            "output_conv": "project",
            "bn3": "project_bn",
        },
        group="{group}{child}",
    )

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, same=False, project_size=1, last=spec.projection_activation)


class MBConvBlock(InvertedResidual):
    """As in v2; without more channels within, the last convolution has a kernel as large as the
    first.
    """

    layout = Layout(
        names={
            "conv1": "expand_conv",
            "bn1": "expand_bn",
            "depthwise": "dwconv2",
            "bn2": "bn",
            "output_conv": "project_conv",
            "bn3": "project_bn",
        },
        prefix="{}",
    )

    def __init__(self, spec: Spec) -> None:
        size = 1 if spec.expands else spec.kernel_size
        super().__init__(spec, same=True, project_size=size, last=None)


class FusedMBConvBlock(Block):
    """To more channels by a full convolution, and back."""

    layout = Layout(
        names={
            "conv1": "expand_conv",
            "bn1": "expand_bn",
            "output_conv": "project_conv",
            "bn2": "project_bn",
        },
        prefix="{}",
    )

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        size = spec.kernel_size
        self.conv1 = conv(spec.channels, spec.expanded, size, spec.strides, size // 2)
        self.bn1 = spec.norm(spec.expanded)
        self.act1 = ActivationInPlace(spec.activation)
        self.se = spec.squeeze_excite()
        self.output_conv = conv(spec.expanded, spec.filters)
        self.bn2 = spec.norm(spec.filters)
        self.act2 = ActivationInPlace(None if spec.expands else spec.projection_activation)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        x = self.se(self.act1(self.bn1(self.conv1(x))))
        return self.act2(self.bn2(self.output_conv(x)))


class CBABlock(Block):
    """Convolution, norm, activation."""

    layout = Layout(names={"conv1": "conv", "bn1": "bn"}, prefix="{}")

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        size = spec.kernel_size
        self.conv1 = conv(spec.channels, spec.filters, size, spec.strides, size // 2)
        self.bn1 = spec.norm(spec.filters)
        self.act = ActivationInPlace(spec.activation)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn1(self.conv1(x)))


BLOCKS: dict[str, type[EfficientNetBlock | MBConvBlock | FusedMBConvBlock | CBABlock]] = {
    "v1": EfficientNetBlock,
    "unfused": MBConvBlock,
    "fused": FusedMBConvBlock,
    "cba": CBABlock,
}
DEPTHWISE = ("v1", "unfused")
# Arguments that may have more values than there are stacks.
LONGER = ("stackwise_force_input_filters", "stackwise_nores_option")


class EfficientNetBackbone(FeaturePyramidBackbone):
    """Convolutional network of inverted residuals, scaled in width and depth together.

    Images `[batch, height, width, channels]` → `[batch, height / 32, width / 32, num_features]` in
    the published models, times the last stack's width coefficient; `pyramid_outputs` has `P1`,
    what enters the first block of a stride, and so on up to the output.

    Numbers of channels are scaled by a width coefficient and rounded to multiples of
    `depth_divisor`.

    Args:
        stackwise_width_coefficients: by which channels are scaled, by stack.
        stackwise_depth_coefficients: by which blocks are, rounded up.
        stackwise_kernel_sizes: sides in pixels of the blocks' convolutions.
        stackwise_num_repeats: blocks of each stack.
        stackwise_input_filters: channels that its first block is taken to have; the first ones are
            the stem's. The widths within a block follow, and whether its input is added.
        stackwise_output_filters: channels that its blocks give.
        stackwise_expansion_ratios: channels within a block, by those of its input.
        stackwise_squeeze_and_excite_ratios: those that are left of its input's when squeezed; no
            squeeze and excitation outside of (0, 1].
        stackwise_strides: stride of its first block.
        stackwise_block_types: `v1`; `unfused`, which pads strides at the end rather than the
            beginning; `fused`, a full convolution for a depthwise one; `cba`, one convolution.
        stackwise_force_input_filters: in place of `stackwise_input_filters` if not 0, in all
            blocks, but not in the stem.
        stackwise_nores_option: whether no input is added; `v1` adds it all the same. KerasHub saves
            neither this nor `num_features`; here they are saved if they are not the default.
        dropout: how often the last of as many blocks as `stackwise_num_repeats` says is dropped
            for its input, in training mode; those before it less often.
        depth_divisor: see above.
        min_depth: least number of channels.
        input_shape: height, width and channels; only the channels have an effect, and `None` of
            them is 3.
        data_format: `channels_last` or `None`; KerasHub's blocks know no other.
        activation: of all but the blocks' last convolutions.
        include_stem_padding: whether the stem is padded by a pixel on each side.
        use_depth_divisor_as_min_depth: whether `depth_divisor` is meant by `min_depth`.
        cap_round_filter_decrease: whether rounding takes no more than a tenth of the channels.
        stem_conv_padding: `valid` or `same`, after that of `include_stem_padding`.
        batch_norm_momentum: of all norms but those of `v1`, where it is 0.99.
        batch_norm_epsilon: of all norms.
        projection_activation: after the last convolution of `v1` blocks, and of those of `fused`
            ones without more channels within.
        num_features: channels of the last convolution, to be scaled as the last stack's.
        width_coefficient: in place of `stackwise_width_coefficients`, one for all or a list.
        depth_coefficient: likewise.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: stackwise arguments of different lengths, unknown block types, activations or
            paddings, numbers that are too small, an input that cannot be added since the kernel is
            even or the channels are others, or images that are too small or of other channels than
            those of `input_shape`.
    """

    unsaved: ClassVar = {
        "stackwise_nores_option": ([False] * 7,),
        "data_format": (None, "channels_last"),
        "num_features": (1280,),
        "width_coefficient": (None,),
        "depth_coefficient": (None,),
    }

    def __init__(
        self,
        *,
        stackwise_width_coefficients: Sequence[float] | None = None,
        stackwise_depth_coefficients: Sequence[float] | None = None,
        stackwise_kernel_sizes: Sequence[int],
        stackwise_num_repeats: Sequence[int],
        stackwise_input_filters: Sequence[int],
        stackwise_output_filters: Sequence[int],
        stackwise_expansion_ratios: Sequence[float],
        stackwise_squeeze_and_excite_ratios: Sequence[float],
        stackwise_strides: Sequence[int],
        stackwise_block_types: Sequence[str],
        stackwise_force_input_filters: Sequence[int] = (0,) * 7,
        stackwise_nores_option: Sequence[bool] = (False,) * 7,
        dropout: float = 0.2,
        depth_divisor: int = 8,
        min_depth: int | None = 8,
        input_shape: Sequence[int | None] = (None, None, 3),
        data_format: str | None = "channels_last",
        activation: str | None = "swish",
        include_stem_padding: bool = True,
        use_depth_divisor_as_min_depth: bool = False,
        cap_round_filter_decrease: bool = False,
        stem_conv_padding: str = "valid",
        batch_norm_momentum: float = 0.9,
        batch_norm_epsilon: float = 1e-5,
        projection_activation: str | None = None,
        num_features: int = 1280,
        width_coefficient: float | Sequence[float] | None = None,
        depth_coefficient: float | Sequence[float] | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        count = len(stackwise_kernel_sizes)
        widths = coefficients("width", width_coefficient, stackwise_width_coefficients, count)
        depths = coefficients("depth", depth_coefficient, stackwise_depth_coefficients, count)
        self.stackwise_width_coefficients, self.width_coefficient = widths, None
        self.stackwise_depth_coefficients, self.depth_coefficient = depths, None
        check_stacks({k: v for k, v in self.arguments.items() if k.startswith("stackwise_")}, count)
        for i, block_type in enumerate(stackwise_block_types):
            check_choice(BLOCKS, **{f"stackwise_block_types[{i}]": block_type})
        if not any(stackwise_nores_option) and count <= 7:
            self.stackwise_nores_option = [False] * 7
        check_at_least(
            1,
            stackwise_kernel_sizes=stackwise_kernel_sizes,
            stackwise_strides=stackwise_strides,
        )
        check_choice(("valid", "same"), stem_conv_padding=stem_conv_padding)
        if data_format not in (None, "channels_last"):
            raise ValueError(
                f"data_format={data_format!r} must be 'channels_last': transpose the images."
            )
        least = depth_divisor if use_depth_divisor_as_min_depth else min_depth
        if least is None:
            raise ValueError("min_depth=None needs use_depth_divisor_as_min_depth=True.")
        scaled = Scaling(depth_divisor, least, cap_round_filter_decrease)
        self.image_shape, self.strides = input_shape, stackwise_strides
        self.channels = image_channels(input_shape, "channels_last", "input_shape")
        width = scaled("stackwise_input_filters[0]", stackwise_input_filters[0], widths[0])
        stem = width
        self.levels: list[Level] = []
        stacks: list[list[Spec]] = []
        stride, done, total = 2, 0, sum(stackwise_num_repeats)
        for i, block_type in enumerate(stackwise_block_types):
            inputs = scaled(f"stackwise_input_filters[{i}]", stackwise_input_filters[i], widths[i])
            filters = scaled(
                f"stackwise_output_filters[{i}]", stackwise_output_filters[i], widths[i]
            )
            forced = stackwise_force_input_filters[i]
            if forced > 0:
                forced = scaled(f"stackwise_force_input_filters[{i}]", forced, widths[i])
            stacks.append([])
            for j in range(math.ceil(depths[i] * stackwise_num_repeats[i])):
                strides = stackwise_strides[i] if j == 0 else 1
                if strides > 1:
                    self.levels.append(Level(f"P{len(self.levels) + 1}", width, stride))
                    stride *= strides
                spec = Spec(
                    channels=width,
                    inputs=forced if forced > 0 else inputs if j == 0 else filters,
                    filters=filters,
                    kernel_size=stackwise_kernel_sizes[i],
                    strides=strides,
                    expand_ratio=stackwise_expansion_ratios[i],
                    se_ratio=stackwise_squeeze_and_excite_ratios[i],
                    skip=block_type == "v1" or not stackwise_nores_option[i],
                    drop_path=dropout * done / total,
                    activation=activation,
                    projection_activation=projection_activation,
                    epsilon=batch_norm_epsilon,
                    momentum=0.99 if block_type == "v1" else batch_norm_momentum,
                )
                spec.check(i, block_type)
                stacks[i].append(spec)
                width, done = filters, done + 1
        top = scaled("num_features", num_features, widths[-1])
        self.levels.append(Level(f"P{len(self.levels) + 1}", top, stride))

        around = 1 if include_stem_padding else 0
        same = stem_conv_padding == "same"
        self.stem_pad = (
            nn.Sequential(nn.ZeroPad2d(around), SamePadding(3, 2)) if same else nn.Identity()
        )
        self.stem_conv = conv(self.channels, stem, 3, 2, 0 if same else around)
        self.smallest = 1 if same else smallest_side([self.stem_conv])
        self.stem_bn = BatchNormalization(stem, batch_norm_epsilon, batch_norm_momentum)
        self.stem_activation = ActivationInPlace(activation)
        self.blocks = Stack(
            "",
            [
                Stack(partial(block_name, i), map(BLOCKS[block_type], specs))
                for i, (block_type, specs) in enumerate(zip(stackwise_block_types, stacks), 1)
            ],
        )
        self.top_conv = conv(width, top)
        self.top_bn = BatchNormalization(top, batch_norm_epsilon, batch_norm_momentum)
        self.top_activation = ActivationInPlace(activation)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What enters each stride behind the stem, and the output, `[batch, channels, height,
        width]`.
        """
        check_images(images, "channels_last", self.channels, at_least=self.smallest)
        x = self.stem_conv(self.stem_pad(channels_first(images, "channels_last")))
        x = self.stem_activation(self.stem_bn(x))
        found = []
        for strides, stack in zip(self.strides, self.blocks):
            if strides > 1 and len(stack):
                found.append(x)
            for block in stack:
                x = block(x)
        return [*found, self.top_activation(self.top_bn(self.top_conv(x)))]

    def forward(self, images: Images) -> torch.Tensor:
        return channels_back(self.features(images)[-1], "channels_last")


def check_stacks(stackwise: Mapping[str, Sequence[Any]], count: int) -> None:
    """Refuse what is not given for each of `count` stacks.

    Raises:
        ValueError: it names the argument.
    """
    check_equally_long(**{name: values for name, values in stackwise.items() if name not in LONGER})
    if not count:
        raise ValueError("stackwise_kernel_sizes must have at least one stack, not [].")
    for name in LONGER:
        if len(stackwise[name]) < count:
            raise ValueError(
                f"{name}={stackwise[name]} must have a value for each of {count} stacks."
            )


def coefficients(
    kind: str,
    given: float | Sequence[float] | None,
    stackwise: Sequence[float] | None,
    count: int,
) -> Sequence[float]:
    """Of all stacks; one for all is repeated.

    Raises:
        ValueError: neither is given.
    """
    if isinstance(given, (int, float)):
        return [given] * count
    found = stackwise if given is None else given
    if found is None:
        raise ValueError(
            f"stackwise_{kind}_coefficients=None must be numbers, one for each of {count} stacks."
        )
    return found


def block_name(stack: int, index: int) -> str:
    """A letter for each block."""
    return f"block{stack}{chr(ord('a') + index)}_"
