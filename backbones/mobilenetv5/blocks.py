"""The blocks of MobileNetV5, those of MobileNetV4 (arXiv:2404.10518) among them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from ..layers.activations import ActivationInPlace
from ..layers.convolution import (
    BatchNormalization,
    Conv2D,
    DepthwiseConv2D,
    SamePadding,
    adjust_channels,
    channels_first,
    resize,
)
from ..layers.core import RMSNormalization
from ..layers.initializers import variance_scaling
from ..layers.layer import Layer
from ..layers.layout import Layout, Stack
from ..layers.vision import DropPath, LayerScale

HE_NORMAL = variance_scaling(2.0, "fan_out", "untruncated_normal")


class RmsNorm2d(RMSNormalization):
    """RMS norm over the channels of `[batch, channels, height, width]`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return channels_first(super().forward(x.permute(0, 2, 3, 1)), "channels_last")


class LayerScale2d(LayerScale):
    """A factor for each channel of `[batch, channels, height, width]`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return channels_first(super().forward(x.permute(0, 2, 3, 1)), "channels_last")


@dataclass(frozen=True)
class Style:
    """What the blocks of a model have alike.

    Attributes:
        rms_norm: RMS norm and biases in its convolutions, else batch norm and none.
        same: whether convolutions keep the size of a map, but for their strides.
        layer_scale: its initial value; `None` for none.
        scrambled: see `ScrambledAttention2d`.
    """

    rms_norm: bool
    same: bool = True
    layer_scale: float | None = None
    scrambled: bool = False

    def norm(self, channels: int, epsilon: float = 1e-3) -> nn.Module:
        """`epsilon` is that of a batch norm."""
        return RmsNorm2d(channels) if self.rms_norm else BatchNormalization(channels, epsilon)

    def scale(self, channels: int) -> nn.Module:
        if self.layer_scale is None:
            return nn.Identity()
        return LayerScale2d(channels, self.layer_scale)

    def pad(self, kernel_size: int, strides: int, dilation: int = 1) -> nn.Module:
        """What goes ahead of a strided convolution."""
        ahead = self.same and strides > 1 and kernel_size > 1
        return SamePadding(kernel_size, strides, dilation) if ahead else nn.Identity()

    def conv(
        self,
        channels: int,
        filters: int,
        kernel_size: int = 1,
        strides: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activation: str | None = None,
        use_bias: bool | None = None,
    ) -> ConvNormAct:
        """A convolution with norm and activation, padded in this style."""
        use_bias = self.rms_norm if use_bias is None else use_bias
        pad = self.pad(kernel_size, strides, dilation)
        padding = "same" if self.same and isinstance(pad, nn.Identity) else 0
        conv = Conv2D(
            channels, filters, kernel_size, strides, padding, dilation, groups, use_bias, HE_NORMAL
        )
        return ConvNormAct(pad, conv, self.norm(filters, 1e-5), ActivationInPlace(activation))

    def depthwise(
        self,
        channels: int,
        kernel_size: int,
        strides: int = 1,
        dilation: int = 1,
        activation: str | None = None,
    ) -> nn.Module:
        """Of each channel by itself, a grouped convolution as in Keras; nothing for a size of 0."""
        if not kernel_size:
            return nn.Identity()
        return self.conv(channels, channels, kernel_size, strides, dilation, channels, activation)


class ConvNormAct(Layer, nn.Sequential):
    """Convolution, norm and activation."""

    layout = Layout(unnamed=("conv", "norm"))

    def __init__(self, pad: nn.Module, conv: Conv2D, norm: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.pad, self.conv, self.norm, self.act = pad, conv, norm, act


class EdgeResidual(Layer):
    """A convolution to more channels and one back (arXiv:2003.02838)."""

    layout = Layout(unnamed=("conv_exp", "conv_pwl"), built_on_call=True)

    def __init__(
        self,
        style: Style,
        channels: int,
        filters: int,
        strides: int,
        dilation: int,
        exp_kernel_size: int,
        pw_kernel_size: int,
        exp_ratio: float,
        activation: str,
        drop_path: float,
    ) -> None:
        super().__init__()
        expanded = adjust_channels(channels * exp_ratio)
        self.residual = strides == 1 and channels == filters
        self.conv_exp = style.conv(
            channels, expanded, exp_kernel_size, strides, dilation, activation=activation
        )
        self.conv_pwl = style.conv(expanded, filters, pw_kernel_size)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv_pwl(self.conv_exp(x))
        return self.drop_path(y) + x if self.residual else y


class UniversalInvertedResidual(Layer):
    """To more channels and back, with depthwise convolutions before, between and behind.

    Each of the three is there unless its kernel's size is 0; the first there is of between,
    before and behind has the stride.
    """

    layout = Layout(
        unnamed=("dw_start", "pw_exp", "dw_mid", "pw_proj", "dw_end", "layer_scale"),
        built_on_call=True,
    )

    def __init__(
        self,
        style: Style,
        channels: int,
        filters: int,
        strides: int,
        dilation: int,
        kernel_sizes: tuple[int, int, int],
        exp_ratio: float,
        activation: str,
        drop_path: float,
        residual: bool = True,
    ) -> None:
        super().__init__()
        start, middle, end = kernel_sizes
        expanded = adjust_channels(channels * exp_ratio)
        self.residual = residual and strides == 1 and channels == filters
        self.dw_start = style.depthwise(channels, start, 1 if middle else strides, dilation)
        self.pw_exp = style.conv(channels, expanded, activation=activation)
        self.dw_mid = style.depthwise(expanded, middle, strides, dilation, activation)
        self.pw_proj = style.conv(expanded, filters)
        self.dw_end = style.depthwise(filters, end, 1 if start or middle else strides, dilation)
        self.layer_scale = style.scale(filters)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dw_mid(self.pw_exp(self.dw_start(x)))
        y = self.layer_scale(self.dw_end(self.pw_proj(y)))
        return self.drop_path(y) + x if self.residual else y


class MultiQueryAttention2d(Layer):
    """Attention between pixels, with one head of keys and values (arXiv:1911.02150).

    With `kv_strides` above 1 these come from fewer pixels.
    """

    layout = Layout(built_on_call=True)

    def __init__(
        self,
        style: Style,
        channels: int,
        filters: int,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        kv_strides: int,
        dilation: int,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_layers = Stack("query_proj", [pointwise(channels, num_heads * key_dim)])
        self.pad = style.pad(3, kv_strides, dilation)
        self.key_layers = self.projection("key", style, channels, key_dim, kv_strides, dilation)
        self.value_layers = self.projection(
            "value", style, channels, value_dim, kv_strides, dilation
        )
        self.output_proj_layers = Stack("output_proj", [pointwise(num_heads * value_dim, filters)])

    @staticmethod
    def projection(
        name: str, style: Style, channels: int, dim: int, strides: int, dilation: int
    ) -> Stack:
        down: nn.Module = nn.Identity()
        norm: nn.Module = nn.Identity()
        if strides > 1:
            down = DepthwiseConv2D(
                channels, 3, strides, 0, dilation, use_bias=False, kernel_initializer=HE_NORMAL
            )
            norm = style.norm(channels)
        names = (f"{name}_down_conv", f"{name}_norm", f"{name}_proj")
        return Stack(names.__getitem__, [down, norm, pointwise(channels, dim)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.query_layers[0](x)
        k = v = self.pad(x)
        for layer in self.key_layers:
            k = layer(k)
        for layer in self.value_layers:
            v = layer(v)
        size = q.shape[2:]
        # The heads are further queries of the one head of keys.
        q = q.permute(0, 2, 3, 1).unflatten(3, (self.num_heads, -1)).flatten(1, 3)[:, None]
        k, v = (one.flatten(2).mT[:, None] for one in (k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        y = y[:, 0].unflatten(1, (*size, self.num_heads)).flatten(3).permute(0, 3, 1, 2)
        return self.output_proj_layers[0](y)


class Attention2d(Layer):
    """Attention between pixels."""

    layout = Layout(class_name="Attention2d", built_on_call=True)

    def __init__(self, channels: int, filters: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = pointwise(channels, 3 * channels)
        self.proj = pointwise(channels, filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        qkv = self.qkv(x).flatten(2).unflatten(1, (3, self.num_heads, -1))
        q, k, v = qkv.mT.unbind(1)  # [b, n, h · w, d]
        y = F.scaled_dot_product_attention(q, k, v).mT
        return self.proj(self.joined(y, height, width))

    def joined(self, y: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The heads' outputs `[b, n, d, h · w]` as a map."""
        return y.flatten(1, 2).unflatten(2, (height, width))


class ScrambledAttention2d(Attention2d):
    """KerasHub's, where channels come last: it takes its outputs for channels-last ones, so that
    they get into other places and channels.
    """

    def joined(self, y: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return y.reshape(y.shape[0], height, width, -1).permute(0, 3, 1, 2)


class MobileAttention(Layer):
    """Attention, after a convolution that tells positions if one is given."""

    layout = Layout(built_on_call=True)

    def __init__(
        self,
        style: Style,
        channels: int,
        attention: nn.Module,
        residual: bool,
        filters: int,
        position_dilation: int | None,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.conv_cpe_dw = None
        if position_dilation is not None:
            self.conv_cpe_dw = DepthwiseConv2D(
                channels, 3, 1, "same", position_dilation, kernel_initializer=HE_NORMAL
            )
        self.norm = style.norm(channels)
        self.attn = attention
        self.layer_scale = style.scale(filters)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.conv_cpe_dw is not None:
            x = x + self.conv_cpe_dw(x)
        y = self.layer_scale(self.attn(self.norm(x)))
        return self.drop_path(y) + x if self.residual else y


def pointwise(channels: int, filters: int) -> Conv2D:
    return Conv2D(channels, filters, 1, use_bias=False, kernel_initializer=HE_NORMAL)


class MultiScaleFusionAdapter(Layer):
    """Maps of several sizes, concatenated at the first one's, as one map of a given size."""

    layout = Layout(class_name="MobileNetV5MultiScaleFusionAdapter", unnamed=("ffn", "norm"))

    def __init__(
        self, style: Style, channels: int, filters: int, size: tuple[int, int], activation: str
    ) -> None:
        super().__init__()
        self.size = size
        self.ffn = UniversalInvertedResidual(
            replace(style, layer_scale=None),
            channels,
            filters,
            1,
            1,
            (0, 0, 0),
            2.0,
            activation,
            0.0,
            residual=False,
        )
        self.norm = style.norm(filters)

    def forward(self, first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        size = first.shape[2:]
        x = self.ffn(torch.cat((first, *(resize(x, size, "nearest") for x in others)), 1))
        return self.norm(resample(x, self.size))


def resample(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A map at another size: means where that divides its own, else interpolated."""
    height, width = x.shape[2:]
    if torch.compiler.is_compiling():  # for all sizes at once
        down, right = (torch.arange(many, device=x.device) for many in (height, width))
        divides = ((down[-1] + 1) % size[0] + (right[-1] + 1) % size[1]) == 0
        rows = sampling(down, size[0], divides).to(x.dtype)
        columns = sampling(right, size[1], divides).to(x.dtype)
        return rows @ (x @ columns.mT)
    if (height, width) == size:
        return x
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(x, (height // size[0], width // size[1]))
    return resize(x, size)


def sampling(places: torch.Tensor, size: int, divides: torch.Tensor) -> torch.Tensor:
    """The part of each place along an axis in each of `size` new ones, `[size, places]`."""
    many = places.shape[0]  # which may be a symbol, as `len` may not
    step = many / size
    new = torch.arange(size, device=places.device)[:, None]
    centers = ((new + 0.5) * step - 0.5).clamp(min=0).minimum(places[-1])
    means = (places * size // many == new) / step
    return torch.where(divides, means, (1 - (centers - places).abs()).clamp(min=0))
