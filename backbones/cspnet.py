"""CSPNet (arXiv:1911.11929) and DarkNet (arXiv:1804.02767)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from ._backbone import FeaturePyramidBackbone
from ._inputs import Images
from .layers.activations import ActivationInPlace
from .layers.convolution import (
    BatchNormalization,
    Conv2D,
    ConvNorm,
    SamePadding,
    channels_back,
    channels_first,
    check_data_format,
    pair,
)
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import Layout, Stack
from .layers.pyramid import Level
from .layers.vision import (
    Window,
    check_at_least,
    check_choice,
    check_equally_long,
    check_images,
    image_channels,
    smallest_seen,
)

T = TypeVar("T")
MakeActivation: TypeAlias = Callable[[], nn.Module]


def conv_norm(
    names: tuple[str, str],
    conv: Conv2D,
    act: MakeActivation | None = None,
    pad: nn.Module | None = None,
) -> ConvNorm:
    norm = BatchNormalization(conv.out_channels, epsilon=1e-5)
    return ConvNorm(conv, norm, act and act(), pad, names)


def pointwise(
    names: tuple[str, str], channels: int, filters: int, act: MakeActivation | None = None
) -> ConvNorm:
    return conv_norm(names, Conv2D(channels, filters, 1, use_bias=False), act)


def spatial(
    names: tuple[str, str], channels: int, filters: int, groups: int, act: MakeActivation
) -> ConvNorm:
    conv = Conv2D(channels, filters, 3, padding="same", groups=groups, use_bias=False)
    return conv_norm(names, conv, act)


class Stem(Layer, nn.Sequential):
    """Convolutions, the first of stride 2 if `strides` is more than 1; of two such strides the
    second is the last one's, or a 3 × 3 max-pool's.

    Attributes:
        windows: of all its layers.
        stride: of the whole.
    """

    layout = Layout(group="{child}")

    def __init__(
        self,
        channels: int,
        filters: Sequence[int],
        kernel_size: int | Sequence[int],
        strides: int,
        padding: str,
        pooling: str | None,
        act: MakeActivation,
    ) -> None:
        super().__init__()
        size = pair(kernel_size)
        self.windows: list[Window] = []
        self.stride = 1
        for i, width in enumerate(filters):
            first, last = i == 0, i == len(filters) - 1
            twice = last and strides > 2 and not pooling
            step = 2 if twice or (first and strides > 1) else 1
            around = (size[0] - 1) // 2 if step > 1 else 0
            same = first and padding == "same"
            pad = None
            if same and step > 1:
                # Zeros on all sides, and what "same" then adds for the stride.
                pad = nn.Sequential(nn.ZeroPad2d(around), SamePadding(size[0], step))
            own: int | str = "same" if same and step == 1 else 0 if same else around
            conv = Conv2D(channels, width, size, step, own, use_bias=False)
            names = f"csp_stem_conv_{i}", f"csp_stem_bn_{i}"
            self.add_module(f"conv_{i}", conv_norm(names, conv, act, pad))
            self.windows.append(Window(1 if same else size, step, 2 * around))
            self.stride *= step
            channels = width
        if pooling:
            self.pool = nn.MaxPool2d(3, 2, padding=1)
            self.windows.append(Window(3, 2, 2))
            self.stride *= 2


class DarkBlock(Layer):
    """1 × 1 and 3 × 3; the input is added."""

    layout = Layout(group="{group}_dark_block_{child}")

    def __init__(self, channels: int, hidden: int, groups: int, act: MakeActivation) -> None:
        super().__init__()
        self.conv1 = pointwise(("conv_1", "bn_1"), channels, hidden, act)
        self.conv2 = spatial(("conv_2", "bn_2"), hidden, channels, groups, act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.conv1(x))


class EdgeBlock(Layer):
    """3 × 3 and 1 × 1; the input is added."""

    layout = Layout(group="{group}_edge_block_{child}")

    def __init__(self, channels: int, hidden: int, groups: int, act: MakeActivation) -> None:
        super().__init__()
        self.conv1 = spatial(("conv_1", "bn_1"), channels, hidden, groups, act)
        self.conv2 = pointwise(("conv_2", "bn_2"), hidden, channels, act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.conv1(x))


class BottleneckBlock(Layer):
    """1 × 1, 3 × 3 and 1 × 1; the input is added before the last activation."""

    layout = Layout(group="{group}_bottleneck_block_{child}")

    def __init__(self, channels: int, hidden: int, groups: int, act: MakeActivation) -> None:
        super().__init__()
        self.conv1 = pointwise(("conv_1", "bn_1"), channels, hidden, act)
        self.conv2 = spatial(("conv_2", "bn_2"), hidden, hidden, groups, act)
        self.conv3 = pointwise(("conv_3", "bn_3"), hidden, channels)
        self.act = act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x + self.conv3(self.conv2(self.conv1(x))))


Block: TypeAlias = DarkBlock | EdgeBlock | BottleneckBlock
BLOCKS: dict[str, type[Block]] = {
    "dark_block": DarkBlock,
    "edge_block": EdgeBlock,
    "bottleneck_block": BottleneckBlock,
}


class DarkStage(Layer):
    """Blocks, one after the other."""

    layout = Layout(group="{group}_{child}")

    def __init__(self, down: nn.Module, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.conv_down = down
        self.blocks = Stack("block_{}", blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_down(x)
        for block in self.blocks:
            x = block(x)
        return x


class CrossStage(Layer):
    """Half of the channels passes by the blocks, the other one goes through them.

    Args:
        down: what halves the resolution.
        channels: those that it gives.
        expanded: those of both halves together.
        linear: whether the two halves are cut without an activation.
    """

    layout = Layout(group="{group}_{child}")

    def __init__(
        self,
        down: nn.Module,
        channels: int,
        expanded: int,
        filters: int,
        blocks: Sequence[Block],
        linear: bool,
        act: MakeActivation,
    ) -> None:
        super().__init__()
        half = expanded // 2
        self.conv_down = down
        self.conv_exp = pointwise(
            ("csp_conv_exp", "csp_bn_2"), channels, expanded, None if linear else act
        )
        self.blocks = Stack("block_{}", blocks)
        self.conv_transition_b = pointwise(
            ("csp_conv_transition_b", "csp_transition_b_bn"), half, half, act
        )
        self.conv_transition = pointwise(
            ("csp_conv_transition", "csp_transition_bn"), expanded, filters, act
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passing, x = self.conv_exp(self.conv_down(x)).chunk(2, 1)
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        return self.conv_transition(torch.cat((passing, self.conv_transition_b(x)), 1))


class CrossStage3(Layer):
    """As `CrossStage`, but the first half goes through the blocks and meets the other at once.

    As in KerasHub it gives `expanded / 2` channels, where timm's gives `filters`.
    """

    layout = Layout(group="{group}_{child}")

    def __init__(
        self,
        down: nn.Module,
        channels: int,
        expanded: int,
        blocks: Sequence[Block],
        linear: bool,
        act: MakeActivation,
    ) -> None:
        super().__init__()
        self.conv_down = down
        self.conv_exp = pointwise(
            ("cs3_conv_exp", "cs3_bn_2"), channels, expanded, None if linear else act
        )
        self.blocks = Stack("block_{}", blocks)
        self.conv_transition = pointwise(
            ("cs3_conv_transition", "cs3_transition_bn"), expanded, expanded // 2, act
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, passing = self.conv_exp(self.conv_down(x)).chunk(2, 1)
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        return self.conv_transition(torch.cat((x, passing), 1))


STAGES = ("dark", "csp", "cs3")


def padded(length: int, **argument: T | Sequence[T]) -> list[T]:
    """A list of this length, whose last value stands for all that are missing.

    Raises:
        ValueError: an empty one; it names the argument.
    """
    ((name, values),) = argument.items()
    found = list(values) if isinstance(values, Sequence) else [values]
    if not found:
        raise ValueError(f"{name}={values} must not be empty.")
    return (found + found[-1:] * length)[:length]


def scaled(filters: int, ratio: float, argument: str) -> int:
    """Channels by a ratio.

    Raises:
        ValueError: none are left; it names the argument.
    """
    channels = round(filters * ratio)
    if channels < 1:
        raise ValueError(f"{argument} with {ratio} leaves no channels of {filters}; enlarge it.")
    return channels


def check_stem(kernel_size: int | Sequence[int], strides: int, pooling: str | None) -> None:
    """Refuse what makes no stem.

    Raises:
        ValueError: it names the argument.
    """
    if pooling not in (None, "", "max"):
        raise ValueError(f"stem_pooling={pooling!r} must be 'max' or None.")
    if strides not in (1, 2, 4) or (pooling and strides != 4):
        wanted = "4 with stem_pooling='max'" if pooling else "1, 2 or 4"
        raise ValueError(f"stem_strides={strides} must be {wanted}.")
    if not isinstance(kernel_size, int) and (len(kernel_size) != 2 or strides > 1):
        raise ValueError(
            f"stem_kernel_size={kernel_size} must be one number, or two with stem_strides=1."
        )


def downsampling(
    names: tuple[str, str],
    channels: int,
    filters: int,
    strides: int,
    groups: int,
    act: MakeActivation,
) -> tuple[ConvNorm, Window]:
    """A 3 × 3 convolution; it is padded only where it has a stride."""
    around = 1 if strides > 1 else 0
    conv = Conv2D(channels, filters, 3, strides, around, groups=groups, use_bias=False)
    return conv_norm(names, conv, act), Window(3, strides, 2 * around)


class ChannelAndRowPool(Layer):
    """Averages over two channels and two rows: KerasHub does not tell its pool that the channels
    come first.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        return x.contiguous(memory_format=torch.channels_last)


def averaging(
    names: tuple[str, str],
    channels: int,
    filters: int,
    strides: int,
    groups: int,
    act: MakeActivation,
    data_format: str,
) -> tuple[ConvNorm, Window]:
    """Averages of 2 × 2 pixels, if the stride is 2, and a 1 × 1 convolution."""
    pool: nn.Module | None = None
    window = Window(1)
    if strides == 2 and data_format == "channels_last":
        pool, window = nn.AvgPool2d(2), Window(2, 2)
    elif strides == 2:
        check_at_least(2, channels=channels)
        pool, window = ChannelAndRowPool(), Window((2, 1), (2, 1))
        channels //= 2
    conv = Conv2D(channels, filters, 1, groups=groups, use_bias=False)
    return conv_norm(names, conv, act, pool), window


class CSPNetBackbone(FeaturePyramidBackbone):
    """Convolutional network whose stages lead a part of their channels past the blocks.

    Images `[batch, height, width, channels]` → the last stage's features; `pyramid_outputs` has
    `P2` and up, one level per stage, whatever its resolution.

    Args:
        stem_filters: channels of the stem's convolutions.
        stem_kernel_size: their height and width in pixels, or one number for both, as it has to be
            if they have a stride.
        stem_strides: 1, 2, or 4, of the stem as a whole; a single convolution without pooling has
            at most 2.
        stackwise_depth: blocks of each stage.
        stackwise_strides: stride of each stage. It and the ratios are single numbers or lists, in
            which the last one stands for the stages after it, too.
        stackwise_num_filters: channels of each stage.
        block_type: `dark_block` (1 × 1 and 3 × 3), `edge_block` (3 × 3 and 1 × 1) or
            `bottleneck_block` (1 × 1, 3 × 3 and 1 × 1).
        groups: into which channels are cut in the 3 × 3 convolutions of all stages.
        stage_type: `dark` (all channels go through the blocks), `csp` (half of them do) or `cs3`
            (half of them, with one convolution less behind them; it gives half of its expanded
            channels).
        activation: by its Keras name; `leaky_relu` has a slope of 0.01.
        output_strides: more than the resolution before any stage with a stride; without effect.
        bottle_ratio: channels within the blocks of each stage, in those that they give.
        block_ratio: channels that the blocks of each stage give, in its own; as many must enter.
        expand_ratio: channels in both parts of `csp` and `cs3` stages together, in its own.
        stem_padding: `valid` or `same`, of the stem's first convolution, in addition to the half
            kernel around it that each convolution with a stride has.
        stem_pooling: `max` for a max-pool at the end of the stem, with `stem_strides=4`, or `None`.
        avg_down: whether stages of stride 2 take averages of 2 × 2 pixels and a 1 × 1 convolution;
            other strides are then without effect. As in KerasHub, channels-first images are
            averaged over two channels and two rows.
        down_growth: whether the channels of `csp` and `cs3` stages grow where their resolution
            shrinks, not after that.
        cross_linear: whether there is no activation before the channels are parted.
        image_shape: height, width and channels in the order of `data_format`; only the channels
            have an effect, and `None` of them is 3.
        data_format: `channels_last` or `channels_first`, of images and outputs; `None` for the
            first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an unknown block, stage, padding, pooling or activation, lists of wrong lengths,
            numbers that are too small, groups that do not divide channels, parts that are not
            equal, blocks whose input and output differ in channels, a stride beyond
            `output_strides`, or images that are too small or of other channels than those of
            `image_shape`.
    """

    def __init__(
        self,
        stem_filters: int | Sequence[int],
        stem_kernel_size: int | Sequence[int],
        stem_strides: int,
        stackwise_depth: Sequence[int],
        stackwise_strides: int | Sequence[int],
        stackwise_num_filters: Sequence[int],
        block_type: str,
        groups: int = 1,
        stage_type: str | None = None,
        activation: str | None = "leaky_relu",
        output_strides: int = 32,
        bottle_ratio: float | Sequence[float] = (1.0,),
        block_ratio: float | Sequence[float] = (1.0,),
        expand_ratio: float | Sequence[float] = (1.0,),
        stem_padding: str = "valid",
        stem_pooling: str | None = None,
        avg_down: bool = False,
        down_growth: bool = False,
        cross_linear: bool = False,
        image_shape: Sequence[int | None] = (None, None, 3),
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_choice(BLOCKS, block_type=block_type)
        check_choice(STAGES, stage_type=stage_type)
        check_choice(("valid", "same"), stem_padding=stem_padding)
        check_stem(stem_kernel_size, stem_strides, stem_pooling)
        check_equally_long(
            stackwise_depth=stackwise_depth, stackwise_num_filters=stackwise_num_filters
        )
        stages = len(stackwise_depth)
        stage_strides = padded(stages, stackwise_strides=stackwise_strides)
        bottle_ratios = padded(stages, bottle_ratio=bottle_ratio)
        block_ratios = padded(stages, block_ratio=block_ratio)
        expand_ratios = padded(stages, expand_ratio=expand_ratio)
        widths = [stem_filters] if isinstance(stem_filters, int) else list(stem_filters)
        if not widths or not stages:
            raise ValueError(
                f"stem_filters={stem_filters} and stackwise_depth={stackwise_depth} must not be "
                "empty."
            )
        check_at_least(0, stackwise_depth=stackwise_depth)
        check_at_least(
            1,
            stem_filters=stem_filters,
            stem_kernel_size=stem_kernel_size,
            stackwise_strides=stackwise_strides,
            stackwise_num_filters=stackwise_num_filters,
            groups=groups,
        )
        # As `output_strides` counts it: a stem of one convolution has no stride above 2.
        reduction = stem_strides if stem_pooling or len(widths) > 1 else min(stem_strides, 2)
        for i, strides in enumerate(stage_strides):
            if strides > 1 and reduction >= output_strides:
                raise ValueError(
                    f"output_strides={output_strides} must be more than {reduction}, the stride "
                    f"before stage {i}, which has one of {strides}: it is not replaced by dilation."
                )
            reduction *= strides
        ratios = zip(expand_ratios, block_ratios, bottle_ratios)
        plan = [
            self.stage_channels(i, filters, depth, *own)
            for i, (filters, depth, own) in enumerate(
                zip(stackwise_num_filters, stackwise_depth, ratios)
            )
        ]
        self.data_format = check_data_format(data_format)
        self.channels = image_channels(image_shape, self.data_format)

        def act() -> nn.Module:
            if activation == "leaky_relu":
                return nn.LeakyReLU(0.01, inplace=True)
            return ActivationInPlace(activation)

        self.stem = Stem(
            self.channels, widths, stem_kernel_size, stem_strides, stem_padding, stem_pooling, act
        )
        windows = [*self.stem.windows]
        width, stride = widths[-1], self.stem.stride
        built: list[DarkStage | CrossStage | CrossStage3] = []
        self.levels: list[Level] = []
        for i, (filters, depth, strides) in enumerate(
            zip(stackwise_num_filters, stackwise_depth, stage_strides)
        ):
            expanded, inner, hidden = plan[i]
            down: nn.Module = nn.Identity()
            if strides != 1 or stage_type == "dark":
                grown = filters if stage_type == "dark" or avg_down or down_growth else width
                names = f"{stage_type}_conv_down_1", f"{stage_type}_bn_1"
                arguments = names, width, grown, strides, groups, act
                if avg_down:
                    down, window = averaging(*arguments, self.data_format)
                else:
                    down, window = downsampling(*arguments)
                windows.append(window)
                width = grown
                stride *= pair(window.stride)[0]
            blocks = [BLOCKS[block_type](inner, hidden, groups, act) for _ in range(depth)]
            if stage_type == "dark":
                built.append(DarkStage(down, blocks))
                width = filters
            elif stage_type == "csp":
                built.append(CrossStage(down, width, expanded, filters, blocks, cross_linear, act))
                width = filters
            else:
                built.append(CrossStage3(down, width, expanded, blocks, cross_linear, act))
                width = inner
            self.levels.append(Level(f"P{i + 2}", width, stride))
        self.stages = Stack("stage_{}", built)
        self.smallest = smallest_seen(windows, 0), smallest_seen(windows, 1)

    def stage_channels(
        self, stage: int, filters: int, depth: int, expand: float, block: float, bottle: float
    ) -> tuple[int, int, int]:
        """Channels of both paths together, of the blocks and within these, by the stage's ratios.

        Raises:
            ValueError: there are none, or paths or blocks do not fit.
        """
        inner = expanded = hidden = filters
        if self.stage_type != "dark":
            expanded = scaled(filters, expand, f"expand_ratio={self.expand_ratio}")
            if expanded % 2:
                raise ValueError(
                    f"expand_ratio={self.expand_ratio} must make an even number of the {filters} "
                    f"channels of stage {stage}, not {expanded}."
                )
            inner = expanded // 2
        if depth:
            given = scaled(filters, block, f"block_ratio={self.block_ratio}")
            if given != inner:
                raise ValueError(
                    f"block_ratio={self.block_ratio} must make {inner} of the {filters} channels "
                    f"of stage {stage}, not {given}: as many as enter its blocks, by stage_type="
                    f"{self.stage_type!r} and expand_ratio={self.expand_ratio}."
                )
            hidden = scaled(inner, bottle, f"bottle_ratio={self.bottle_ratio}")
        return expanded, inner, hidden

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What each stage gives, `[batch, channels, height, width]`."""
        check_images(images, self.data_format, self.channels, at_least=self.smallest)
        seen = [self.stem(channels_first(images, self.data_format))]
        for stage in self.stages:
            seen.append(stage(seen[-1]))
        return seen[1:]

    def forward(self, images: Images) -> torch.Tensor:
        return channels_back(self.features(images)[-1], self.data_format)
