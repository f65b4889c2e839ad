"""MobileNetV5, the vision encoder of Gemma 3n."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from .._backbone import Backbone
from .._configuration import COMMON
from .._inputs import Images
from ..layers.convolution import (
    adjust_channels,
    channels_back,
    channels_first,
    check_data_format,
    pair,
)
from ..layers.dtypes import DTypeLike
from ..layers.layout import Stack
from ..layers.vision import check_equally_long, check_images, image_channels, smallest_side
from .blocks import (
    Attention2d,
    EdgeResidual,
    MobileAttention,
    MultiQueryAttention2d,
    MultiScaleFusionAdapter,
    ScrambledAttention2d,
    Style,
    UniversalInvertedResidual,
)


@dataclass(frozen=True)
class Settings:
    """What the stackwise arguments say of one block, in the constructor's order."""

    block_type: str
    filters: float
    strides: int
    activation: str
    exp_ratio: float
    se_ratio: float | None
    middle: int
    start: int
    end: int
    exp_kernel_size: int
    pw_kernel_size: int
    num_heads: int | None
    key_dim: int | None
    value_dim: int | None
    kv_strides: int
    use_cpe: bool

    def checked(self, activation: str, squeezes: bool) -> Settings:
        """The settings, with this activation where they have none.

        Raises:
            ValueError: they make no block.
        """
        attends = self.block_type in ("mqa", "mha")
        if self.block_type not in ("er", "uir") and not attends:
            raise ValueError(
                f"stackwise_block_types has {self.block_type!r}; it must be er, uir, mqa or mha, "
                "the blocks that KerasHub can build."
            )
        if self.strides not in (1, 2):
            raise ValueError(f"stackwise_strides has {self.strides}; it must be 1 or 2.")
        if self.se_ratio and squeezes and not attends:
            raise ValueError(
                f"stackwise_se_ratios has {self.se_ratio}; it must be 0, or se_layer None."
            )
        if self.block_type == "er" and min(self.exp_kernel_size, self.pw_kernel_size) < 1:
            raise ValueError(
                "stackwise_exp_kernel_sizes and stackwise_pw_kernel_sizes must be positive in er "
                f"blocks, not {self.exp_kernel_size} and {self.pw_kernel_size}."
            )
        return replace(self, activation=self.activation or activation)


def make_block(
    settings: Settings,
    style: Style,
    width: int,
    filters: int,
    dilation: int,
    drop_path: float,
) -> EdgeResidual | UniversalInvertedResidual | MobileAttention:
    """A block for maps of `width` channels."""
    s = settings
    if s.block_type in ("mqa", "mha"):
        attention = make_attention(s, style, width, filters, dilation)
        return MobileAttention(
            style,
            width,
            attention,
            s.strides == 1 and width == filters,
            filters,
            dilation if s.use_cpe else None,
            drop_path,
        )
    block: EdgeResidual | UniversalInvertedResidual
    if s.block_type == "er":
        block = EdgeResidual(
            style,
            width,
            filters,
            s.strides,
            dilation,
            s.exp_kernel_size,
            s.pw_kernel_size,
            s.exp_ratio,
            s.activation,
            drop_path,
        )
    else:
        block = UniversalInvertedResidual(
            style,
            width,
            filters,
            s.strides,
            dilation,
            (s.start, s.middle, s.end),
            s.exp_ratio,
            s.activation,
            drop_path,
        )
    if block.residual and not style.same and smallest_side(convolutions(block)) > 1:
        raise ValueError(
            f"pad_type='valid' makes maps smaller in a block that adds its input, {s}: it must "
            "have kernels of size 1, or give other than its input's channels."
        )
    return block


def make_attention(
    settings: Settings, style: Style, width: int, filters: int, dilation: int
) -> MultiQueryAttention2d | Attention2d:
    heads, key_dim = settings.num_heads, settings.key_dim
    if heads is None and key_dim and width % key_dim == 0:
        heads = width // key_dim
    if not heads or (settings.block_type == "mha" and width % heads):
        raise ValueError(
            f"stackwise_num_heads has {settings.num_heads} and stackwise_key_dims {key_dim} in an "
            f"{settings.block_type} block of {width} channels, which they must divide."
        )
    if settings.block_type == "mqa":
        return MultiQueryAttention2d(
            style,
            width,
            filters,
            heads,
            key_dim or width // heads,
            settings.value_dim or width // heads,
            settings.kv_strides,
            dilation,
        )
    kind = ScrambledAttention2d if style.scrambled else Attention2d
    return kind(width, filters, heads)


def convolutions(block: nn.Module) -> list[nn.Conv2d]:
    return [module for module in block.modules() if isinstance(module, nn.Conv2d)]


class MobileNetV5Backbone(Backbone):
    """Convolutional network with attention between pixels.

    Images `[batch, height, width, channels]` → the fused features of several stacks, `[batch,
    msfa_output_resolution, msfa_output_resolution, num_features]`, or without fusion the last
    stack's.

    The stackwise arguments have a value for each block, by stack. A stack has the stride of its
    first block, and a dilation in its place once a pixel stands for 32 × 32.

    Args:
        stackwise_block_types: `er` (edge residual), `uir` (universal inverted residual), `mqa`
            (attention with one head of keys and values) or `mha` (with all of them). With `mha`
            and images whose channels come last, KerasHub puts what attention gives into other
            places and channels, and so does this.
        stackwise_num_blocks: blocks of each stack.
        stackwise_num_filters: channels that each block gives, before rounding.
        stackwise_strides: 1 or 2; those of attention only mean that its input is not added.
        stackwise_act_layers: activations of `er` and `uir`; `None` for `act_layer`.
        stackwise_exp_ratios: channels within `er` and `uir` blocks for one that they are given.
        stackwise_se_ratios: squeeze and excitation, which KerasHub cannot build: 0, unless
            `se_layer` is `None`.
        stackwise_dw_kernel_sizes: side of the depthwise convolution within `uir`; 0 for none.
        stackwise_dw_start_kernel_sizes: of the one before it.
        stackwise_dw_end_kernel_sizes: of the one behind it.
        stackwise_exp_kernel_sizes: of the first convolution of `er`.
        stackwise_pw_kernel_sizes: of its second one.
        stackwise_num_heads: of attention; `None` for as many as fill the channels.
        stackwise_key_dims: channels of each head of `mqa`; 0 for an equal part of them.
        stackwise_value_dims: the same of the values.
        stackwise_kv_strides: stride of a convolution ahead of the keys and values of `mqa`.
        stackwise_use_cpe: whether a depthwise convolution goes ahead of attention and is added.
        filters: not used; `image_shape` has the channels of images.
        stem_size: channels of the stem, before rounding.
        stem_bias: whether its convolution has a bias.
        fix_stem: whether `stem_size` is not rounded.
        num_features: channels of the fused features.
        pad_type: `same` (or empty) or `valid`, of convolutions.
        use_msfa: whether the features of several stacks are fused.
        msfa_indices: of these stacks among those that the next one has a stride after, the stem
            being the first.
        msfa_output_resolution: height and width of the fused features, one number or two.
        act_layer: activation of the stem and the fusion.
        norm_layer: `rms_norm`, with which convolutions have biases, or `batch_norm`.
        se_layer: not used.
        se_from_exp: not used.
        round_chs_fn: rounds numbers of channels; by default to multiples of 8. Another one cannot
            be saved.
        drop_path_rate: stochastic depth of the last block; it grows from 0.
        layer_scale_init_value: initial factor of each channel in `uir` and attention; `None` for
            no factors.
        image_shape: height, width and channels in the order of `data_format`; only the channels
            have an effect, and `None` of them is 3.
        data_format: `channels_last` or `channels_first`, of images and outputs; `None` for the
            first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: stackwise arguments of different lengths, unknown names, values that do not go
            together, or images that are too small or of other channels than those of
            `image_shape`.
    """

    unsaved: ClassVar = {
        "round_chs_fn": (adjust_channels,),
        "se_layer": ("SqueezeAndExcite2D",),
    }

    def __init__(
        self,
        stackwise_block_types: Sequence[Sequence[str]],
        stackwise_num_blocks: Sequence[int],
        stackwise_num_filters: Sequence[Sequence[float]],
        stackwise_strides: Sequence[Sequence[int]],
        stackwise_act_layers: Sequence[Sequence[str | None]],
        stackwise_exp_ratios: Sequence[Sequence[float]],
        stackwise_se_ratios: Sequence[Sequence[float | None]],
        stackwise_dw_kernel_sizes: Sequence[Sequence[int]],
        stackwise_dw_start_kernel_sizes: Sequence[Sequence[int]],
        stackwise_dw_end_kernel_sizes: Sequence[Sequence[int]],
        stackwise_exp_kernel_sizes: Sequence[Sequence[int]],
        stackwise_pw_kernel_sizes: Sequence[Sequence[int]],
        stackwise_num_heads: Sequence[Sequence[int | None]],
        stackwise_key_dims: Sequence[Sequence[int | None]],
        stackwise_value_dims: Sequence[Sequence[int | None]],
        stackwise_kv_strides: Sequence[Sequence[int]],
        stackwise_use_cpe: Sequence[Sequence[bool]],
        filters: int = 3,
        stem_size: float = 16,
        stem_bias: bool = True,
        fix_stem: bool = False,
        num_features: int = 2048,
        pad_type: str = "same",
        use_msfa: bool = True,
        msfa_indices: int | Sequence[int] = (-2, -1),
        msfa_output_resolution: int | Sequence[int] = 16,
        act_layer: str = "gelu",
        norm_layer: str = "rms_norm",
        se_layer: str | Mapping[str, Any] | None = "SqueezeAndExcite2D",
        se_from_exp: bool = True,
        round_chs_fn: Callable[[float], int] = adjust_channels,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
        image_shape: Sequence[int | None] = (None, None, 3),
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        stackwise = {
            key: value
            for key, value in self.arguments.items()
            if key.startswith("stackwise_") and key != "stackwise_num_blocks"
        }
        check_blocks(stackwise, stackwise_num_blocks)
        plan = [
            [Settings(*block).checked(act_layer, se_layer is not None) for block in zip(*blocks)]
            for blocks in zip(*stackwise.values())
        ]
        if norm_layer not in ("rms_norm", "batch_norm"):
            raise ValueError(f"norm_layer={norm_layer!r} must be 'rms_norm' or 'batch_norm'.")
        if pad_type.lower() not in ("same", "", "valid"):
            raise ValueError(f"pad_type={pad_type!r} must be 'same' or 'valid'.")
        self.data_format = check_data_format(data_format)
        self.channels = image_channels(image_shape, self.data_format)
        self.stem_size = width = int(stem_size if fix_stem else round_chs_fn(stem_size))
        style = Style(
            norm_layer == "rms_norm",
            pad_type.lower() != "valid",
            layer_scale_init_value,
            self.data_format == "channels_last",
        )
        self.conv_stem = style.conv(
            self.channels, width, 3, 2, activation=act_layer, use_bias=stem_bias
        )
        path: list[nn.Conv2d] = [self.conv_stem.conv]
        sides = []  # of the smallest images that each attention can take
        widths = [width]  # of the stem and each stack
        taps = [width] if stackwise_strides[0][0] > 1 else []
        stacks: list[Stack] = []
        reduction, dilation, done = 2, 1, 0
        for i, count in enumerate(stackwise_num_blocks):
            stack: list[nn.Module] = []
            for j in range(count):
                settings = plan[i][j]
                filters = int(round_chs_fn(settings.filters))
                strides = settings.strides if j == 0 else 1
                dilates = reduction * strides > 32
                strides, next_dilation = (1, 2 * dilation) if dilates else (strides, dilation)
                reduction *= strides
                block = make_block(
                    replace(settings, strides=strides),
                    style,
                    width,
                    filters,
                    dilation,
                    drop_path_rate * done / sum(stackwise_num_blocks),
                )
                if isinstance(block, MobileAttention):
                    sides += [smallest_side([*path, conv]) for conv in convolutions(block.attn)]
                else:
                    path += convolutions(block)
                stack.append(block)
                width, dilation, done = filters, next_dilation, done + 1
            stacks.append(Stack("{}", stack))
            widths.append(width)
            if i + 1 == len(stackwise_num_blocks) or stackwise_strides[i + 1][0] > 1:
                taps.append(width)
        self.smallest = 1 if style.same else max(smallest_side(path), *sides, 1)
        # Extents and strides, as far as these change the size of a map.
        self.steps = [
            (1 if style.same else conv.dilation[0] * (conv.kernel_size[0] - 1) + 1, conv.stride[0])
            for conv in path
        ]
        self.joined: list[int] = []
        if use_msfa:
            self.joined, channels = fused_maps(msfa_indices, taps, widths)
            stacks = stacks[: self.joined[-1]]
        self.blocks = Stack("{}", stacks)
        self.output_channels = num_features if use_msfa else width
        self.msfa = None
        if use_msfa:
            size = pair(msfa_output_resolution, "msfa_output_resolution")
            self.msfa = MultiScaleFusionAdapter(style, channels, num_features, size, act_layer)

    def features_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what images give."""
        if self.msfa is not None:
            return self.msfa.size
        for extent, stride in self.steps:
            height, width = ((side - extent) // stride + 1 for side in (height, width))
        return height, width

    def get_config(self) -> dict[str, Any]:
        """As KerasHub's it has no `dtype`, `trainable` and `name`."""
        config = super().get_config()
        return {key: value for key, value in config.items() if key not in COMMON}

    def forward(self, images: Images) -> torch.Tensor:
        check_images(images, self.data_format, self.channels, at_least=self.smallest)
        x = self.conv_stem(channels_first(images, self.data_format))
        maps = [x]
        for stack in self.blocks:
            for block in stack:
                x = block(x)
            maps.append(x)
        if self.msfa is not None:
            x = self.msfa(*(maps[i] for i in self.joined))
        return channels_back(x, self.data_format)


def check_blocks(stackwise: Mapping[str, Sequence[Any]], num_blocks: Sequence[int]) -> None:
    """Refuse arguments without a value for each block of each stack.

    Raises:
        ValueError: it names the argument.
    """
    check_equally_long(stackwise_num_blocks=num_blocks, **stackwise)
    for argument, values in stackwise.items():
        if [len(stack) for stack in values] != list(num_blocks):
            raise ValueError(
                f"{argument}={values} must have a value for each block, by "
                f"stackwise_num_blocks={num_blocks}."
            )


def fused_maps(
    given: int | Sequence[int], taps: Sequence[int], widths: Sequence[int]
) -> tuple[list[int], int]:
    """Which maps are fused, the largest first, and the channels of all of them.

    Args:
        taps: channels of those that may be.
        widths: of the stem and each stack.

    Raises:
        ValueError: there are none such, or they are others than KerasHub's indices mean.
    """
    indices = [given] if isinstance(given, int) else given
    indices = [index if index >= 0 else len(taps) + index for index in indices]
    joined = sorted(set(indices))
    if not joined or not 0 <= joined[0] <= joined[-1] < len(taps):
        raise ValueError(f"msfa_indices={given} must be from {-len(taps)} to {len(taps) - 1}.")
    channels = sum(taps[index] for index in indices)
    if channels != sum(widths[index] for index in joined):
        raise ValueError(
            f"msfa_indices={given} must be different ones, of stacks that have a stride in their "
            "first block, as has the stack behind them."
        )
    return joined, channels
