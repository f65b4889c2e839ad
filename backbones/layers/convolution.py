"""Convolutions and what goes with them, over `[batch, channels, height, width]` unless said.

Keras's "same" puts `total // 2` pixels before an axis and the rest after it, where at stride 1
`total` is the extent of the kernel less one and otherwise depends on the size of the axis. At
stride 1 it is the convolution's own padding; a strided one is padded ahead, by `SamePadding`, so
that a convolution here computes what any `nn.Conv2d` does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F

from .dtypes import in_compute_dtype
from .initializers import Initializer, glorot_uniform, keras_fans, zeros
from .layer import Layer, computed_again
from .layout import Kind, Layout

# One number for height and width, or both.
Size: TypeAlias = int | tuple[int, int]


def check_data_format(data_format: str | None) -> str:
    """Keras's name of an image layout, `channels_last` by default.

    Raises:
        ValueError: neither `channels_last` nor `channels_first`.
    """
    data_format = data_format or "channels_last"
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            f"data_format must be 'channels_last' or 'channels_first', not {data_format!r}."
        )
    return data_format


def channels_first(images: torch.Tensor, data_format: str) -> torch.Tensor:
    """Images with the channels second, in the memory order of torch's `channels_last`.

    It is a view of images whose channels come last.
    """
    if data_format == "channels_last":
        return no_view(images.permute(0, 3, 1, 2))
    return images.contiguous(memory_format=torch.channels_last)


def channels_back(x: torch.Tensor, data_format: str) -> torch.Tensor:
    """Undo `channels_first`."""
    return no_view(x.permute(0, 2, 3, 1)) if data_format == "channels_last" else x


def no_view(x: torch.Tensor) -> torch.Tensor:
    """The same, but for a compiler no view."""
    # Inductor (torch 2.13) cannot sort the symbolic strides of a view that goes into a graph's
    # outputs or that a convolution keeps for its gradient; and it drops a `clone` as idle.
    return x * 1 if torch.compiler.is_compiling() else x


class Convolution(Layer, nn.modules.conv._ConvNd):
    """What convolutions over any number of axes share."""

    compute_dtype: torch.dtype | None = None
    kernel_initializer: Initializer

    def reset_parameters(self) -> None:
        self.kernel_initializer(self.weight, *keras_fans(tuple(self.to_kernel(self.weight).shape)))
        if self.bias is not None:
            zeros(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or self.weight.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return self._conv_forward(in_compute_dtype(x, dtype), self.weight.to(dtype), bias)

    def to_kernel(self, weight: torch.Tensor) -> torch.Tensor:
        """`[out, in, *size]` → Keras kernel `[*size, in, out]`."""
        return weight.permute(*range(2, weight.ndim), 1, 0)

    def from_kernel(self, kernel: torch.Tensor) -> torch.Tensor:
        """Keras kernel → `[out, in, *size]`."""
        return kernel.permute(-1, -2, *range(kernel.ndim - 2))


class Conv1D(Convolution, nn.Conv1d):
    """Convolution over `[batch, channels, length]`; `padding` steps on each side."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        padding: int = 0,
        use_bias: bool = True,
        kernel_initializer: Initializer = glorot_uniform,
    ) -> None:
        self.kernel_initializer = kernel_initializer
        super().__init__(in_channels, filters, kernel_size, strides, padding, bias=use_bias)


class Conv2D(Convolution, nn.Conv2d):
    """Convolution; `padding` pixels on each side, `"valid"` (none) or at stride 1 `"same"`.

    Raises:
        ValueError: a strided "same", which is padded ahead (`SamePadding`), or channels that
            `groups` does not divide.
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        use_bias: bool = True,
        kernel_initializer: Initializer = glorot_uniform,
    ) -> None:
        check_groups(groups, channels=in_channels, filters=filters)
        self.kernel_initializer = kernel_initializer
        super().__init__(
            in_channels,
            filters,
            kernel_size,
            strides,
            own_padding(padding, kernel_size, strides, dilation),
            dilation,
            groups,
            bias=use_bias,
        )


class DepthwiseConv2D(Convolution, nn.Conv2d):
    """Convolution of each channel by itself, into `depth_multiplier` channels.

    Raises:
        ValueError: a strided "same", which is padded ahead (`SamePadding`).
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: int | str = 0,
        dilation: int = 1,
        depth_multiplier: int = 1,
        use_bias: bool = True,
        kernel_initializer: Initializer = glorot_uniform,
    ) -> None:
        self.kernel_initializer = kernel_initializer
        super().__init__(
            in_channels,
            in_channels * depth_multiplier,
            kernel_size,
            strides,
            own_padding(padding, kernel_size, strides, dilation),
            dilation,
            in_channels,
            bias=use_bias,
        )

    def to_kernel(self, weight: torch.Tensor) -> torch.Tensor:
        """`[in · multiplier, 1, *size]` → Keras kernel `[*size, in, multiplier]`."""
        return weight.unflatten(0, (self.groups, -1)).squeeze(2).permute(2, 3, 0, 1)

    def from_kernel(self, kernel: torch.Tensor) -> torch.Tensor:
        """Keras kernel → `[in · multiplier, 1, *size]`."""
        return kernel.permute(2, 3, 0, 1).flatten(0, 1).unsqueeze(1)


class DepthwiseConv1D(Convolution, nn.Conv1d):
    """Convolution of each channel of `[batch, channels, length]` by itself."""

    def __init__(
        self,
        in_channels: int,
        kernel_size: int,
        use_bias: bool = True,
        kernel_initializer: Initializer = glorot_uniform,
    ) -> None:
        self.kernel_initializer = kernel_initializer
        super().__init__(in_channels, in_channels, kernel_size, groups=in_channels, bias=use_bias)

    def to_kernel(self, weight: torch.Tensor) -> torch.Tensor:
        """`[in, 1, size]` → Keras kernel `[size, in, 1]`."""
        return weight.permute(2, 0, 1)

    def from_kernel(self, kernel: torch.Tensor) -> torch.Tensor:
        """Keras kernel → `[in, 1, size]`."""
        return kernel.permute(1, 2, 0)


class SeparableConv2D(Layer, nn.Sequential):
    """A depthwise convolution, then one of 1 × 1 that mixes the channels; both are one Keras layer.

    `strides`, `padding` and `dilation` are the first one's.

    Raises:
        ValueError: a strided "same", which is padded ahead (`SamePadding`).
    """

    layout = Layout(Kind.LEAF)

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: int | str = 0,
        dilation: int = 1,
        depth_multiplier: int = 1,
        use_bias: bool = True,
    ) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv2D(
            in_channels, kernel_size, strides, padding, dilation, depth_multiplier, use_bias=False
        )
        self.pointwise = Conv2D(in_channels * depth_multiplier, filters, 1, use_bias=use_bias)


class Conv2DTranspose(Convolution, nn.ConvTranspose2d):  # type: ignore[misc]
    """Transposed convolution, "valid", of a kernel no smaller than its stride.

    The weight is `[in, out, height, width]`, the Keras kernel `[height, width, out, in]`.
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        use_bias: bool = True,
        kernel_initializer: Initializer = glorot_uniform,
    ) -> None:
        self.kernel_initializer = kernel_initializer
        super().__init__(in_channels, filters, kernel_size, strides, bias=use_bias)

    def _conv_forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return F.conv_transpose2d(x, weight, bias, self.stride)


class Conv3D(Convolution, nn.Conv3d):
    """Convolution over `[batch, channels, frames, height, width]`."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: tuple[int, int, int],
        strides: tuple[int, int, int],
        kernel_initializer: Initializer = glorot_uniform,
    ) -> None:
        self.kernel_initializer = kernel_initializer
        super().__init__(in_channels, filters, kernel_size, strides)


def check_groups(groups: int, **widths: int) -> None:
    """Refuse widths, given by their names, that cannot be cut into groups.

    Raises:
        ValueError: it names the widths and the groups.
    """
    for name, width in widths.items():
        if groups < 1 or width % groups:
            raise ValueError(f"{name}={width} must be divisible by groups={groups}.")


def own_padding(padding: int | str, kernel_size: Size, strides: Size, dilation: int) -> int | str:
    """A convolution's padding as torch has it: pixels on each side, or "same" where the sides
    differ.
    """
    if padding == "valid":
        return 0
    if padding != "same":
        return padding
    extents = [(size - 1) * dilation for size in pair(kernel_size)]
    if max(extents) and max(pair(strides)) > 1:
        raise ValueError(
            f"A convolution of strides={strides} is padded ahead, by SamePadding({kernel_size}, "
            f"{strides}), and has padding=0 itself, not 'same'."
        )
    alike = extents[0] == extents[1] and extents[0] % 2 == 0
    return extents[0] // 2 if alike else "same"


def pair(size: int | Sequence[int], argument: str = "size") -> tuple[int, int]:
    """Height and width of a size given once for both, or as two.

    Raises:
        ValueError: neither one number nor two.
    """
    if isinstance(size, int):
        return size, size
    if len(size) != 2:
        raise ValueError(f"{argument}={size} must be one number, or a height and a width.")
    return size[0], size[1]


def pad_same(
    x: torch.Tensor, kernel_size: int, strides: int, dilation: int = 1, value: float = 0.0
) -> torch.Tensor:
    """What Keras's "same" adds around the last two axes, the odd pixel at the end."""
    extent = (kernel_size - 1) * dilation + 1
    around: list[Any] = []
    for size in (x.shape[-1], x.shape[-2]):
        # Without a remainder, in which the compiler's symbolic sizes would drown.
        total = (size - 1) // strides * strides + extent - size
        if extent < strides:
            total = torch.sym_max(total, 0)
        around += [total // 2, total - total // 2]
    if not torch.compiler.is_compiling() and not any(around):
        return x
    return F.pad(x, around, value=value)


class SamePadding(Layer):
    """Zeros ahead of a strided convolution of padding 0, as Keras's "same" has them."""

    def __init__(self, kernel_size: int, strides: int, dilation: int = 1) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.strides = strides
        self.dilation = dilation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return pad_same(x, self.kernel_size, self.strides, self.dilation)

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, strides={self.strides}, dilation={self.dilation}"


def max_pool_same(x: torch.Tensor, pool_size: int, strides: int) -> torch.Tensor:
    """Keras's `MaxPooling2D` with "same"."""
    if not torch.compiler.is_compiling():
        return F.max_pool2d(pad_same(x, pool_size, strides, value=-torch.inf), pool_size, strides)
    # Inductor (torch 2.13) takes minutes for the gradient of a pooling whose padding depends on
    # symbolic sizes: take the maxima around all pixels, and of those the ones that count.
    ahead = pool_size // 2
    maxima = F.max_pool2d(x, pool_size, 1, ahead)
    for axis in (2, 3):
        size = x.shape[axis]
        steps = (size - 1) // strides
        total = torch.sym_max(steps * strides + pool_size - size, 0)
        places = torch.arange(steps + 1, device=x.device) * strides + (ahead - total // 2)
        maxima = maxima.index_select(axis, places)
    return maxima


class AveragePoolSame(Layer):
    """Keras's `AveragePooling2D` of 2 × 2 pixels with "same", at strides of 2 or more.

    Only pixels of the image are averaged.
    """

    def __init__(self, strides: int = 2) -> None:
        super().__init__()
        self.strides = strides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            return F.avg_pool2d(x, 2, self.strides, ceil_mode=True)
        # Inductor (torch 2.13) compiles that anew for each parity.
        mean = F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, self.strides)
        rows, columns = (
            (torch.arange(many, device=x.device) * self.strides + 1 < size) * 0.5 + 0.5
            for many, size in zip(mean.shape[2:], x.shape[2:])
        )
        return mean / (rows[:, None] * columns).to(x.dtype)

    def extra_repr(self) -> str:
        return f"strides={self.strides}"


def resize(
    x: torch.Tensor,
    size: Sequence[int],
    interpolation: str = "bilinear",
    align_corners: bool = False,
) -> torch.Tensor:
    """To `size`, height and width, as Keras's `Resizing` and `UpSampling2D` do it.

    Args:
        interpolation: `nearest`, `bilinear` or `bicubic`, without antialiasing.
        align_corners: whether the outermost pixels' centres, not their borders, fall on each
            other; `nearest` knows no difference.
    """
    if interpolation == "nearest":
        return F.interpolate(x, tuple(size), mode="nearest-exact")
    if interpolation == "bilinear" and x.requires_grad and torch.compiler.is_compiling():
        # Inductor (torch 2.13) may add up the gradient of an interpolation before it is there.
        rows, columns = (
            linear_weights(many, new, align_corners, x.device).to(x.dtype)
            for many, new in zip(x.shape[2:], size)
        )
        return rows @ (x @ columns.mT)
    return F.interpolate(x, tuple(size), mode=interpolation, align_corners=align_corners)


def linear_weights(
    places: int, size: int, align_corners: bool, device: torch.device
) -> torch.Tensor:
    """What each place along an axis is worth in each of `size` new ones, `[size, places]`."""
    old = torch.arange(places, device=device)
    new = torch.arange(size, device=device)[:, None]
    if align_corners:
        centers = new * ((places - 1) / torch.sym_max(size - 1, 1))
    else:
        centers = (new + 0.5) * (places / size) - 0.5
    centers = centers.clamp(min=0).minimum(old[-1])
    return (1 - (centers - old).abs()).clamp(min=0)


class BatchNormalization(Layer, nn.BatchNorm2d):
    """Batch norm with Keras's moving statistics: the variance is the biased one.

    As in Keras it keeps to the moving statistics while its weights are frozen, and it does not
    count batches; of a single pixel the variance is zero. Statistics are in float32.

    Args:
        momentum: Keras's, what the moving statistics keep; torch's attribute is the rest.
    """

    compute_dtype: torch.dtype | None = None
    momentum: float
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int, epsilon: float = 1e-3, momentum: float = 0.99) -> None:
        super().__init__(channels, epsilon, 1 - momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = in_compute_dtype(x, self.compute_dtype or self.weight.dtype)
        exact = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(exact), self.bias.to(exact)
        if not (self.training and self.weight.requires_grad):
            mean, var = self.running_mean.to(exact), self.running_var.to(exact)
            return F.batch_norm(x, mean, var, weight, bias, False, 0.0, self.eps)
        # A momentum of 1 leaves the statistics of this batch, the variance unbiased.
        mean, var = bias.new_zeros(2, len(bias)).unbind()
        cudnn = torch.backends.cudnn.enabled
        y = torch.batch_norm(x, weight, bias, mean, var, True, 1.0, self.eps, cudnn)
        count = x.numel() // x.shape[1]
        if not torch.compiler.is_compiling() and computed_again():
            return y
        with torch.no_grad():
            biased = var * ((count - 1) / count) if count > 1 else torch.zeros_like(var)
            moving = [self.running_mean, self.running_var]
            if moving[0].dtype == exact:
                torch._foreach_lerp_(moving, [mean, biased], self.momentum)
            else:
                for old, new in zip(moving, (mean, biased)):
                    old.copy_(old.to(exact).lerp(new, self.momentum))
        return y

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        if name != "num_batches_tracked":
            super().register_buffer(name, tensor, persistent)

    @property
    def num_batches_tracked(self) -> torch.Tensor:  # type: ignore[override]
        """A new zero: no buffer and in no file, but `SyncBatchNorm` begins from it."""
        return torch.zeros((), dtype=torch.long, device=self.running_mean.device)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, *args: Any
    ) -> None:
        # From version 2 on torch does not add a missing `num_batches_tracked`.
        super()._load_from_state_dict(state_dict, prefix, {"version": 2}, *args)


# Values of a group, up to which the norm of a map is worth more steps.
SMALL_GROUP = 4096


class GroupNormalization(Layer, nn.GroupNorm):
    """Group norm over `[batch, channels, …]`; its statistics are in float32, or float64 of such."""

    compute_dtype: torch.dtype | None = None

    def __init__(self, groups: int, channels: int, epsilon: float = 1e-3) -> None:
        super().__init__(groups, channels, eps=epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(exact), self.bias.to(exact)
        x = x.to(exact)
        if not torch.compiler.is_compiling() and self.is_small(x):
            x = self.centred(x)
        # `F.group_norm` is the same, but refuses groups of a single value.
        x = torch.group_norm(x, self.num_groups, weight, bias, self.eps)
        return x.to(self.compute_dtype or self.weight.dtype)

    def is_small(self, x: torch.Tensor) -> bool:
        return x.ndim == 4 and x.shape[1:].numel() <= self.num_groups * SMALL_GROUP

    def centred(self, x: torch.Tensor) -> torch.Tensor:
        """With the mean of each group subtracted, as a compiler does it. `group_norm` scales first,
        which costs digits where values hardly differ: where they are few, and all where there is
        one.
        """
        groups = x.unflatten(1, (self.num_groups, -1))
        return (groups - groups.mean((2, 3, 4), keepdim=True)).flatten(1, 2)


class ConvNorm(Layer, nn.Sequential):
    """A convolution and what follows it, each if given: norm, then activation.

    It is no Keras layer: its parts belong to the one around.

    Args:
        pad: goes ahead, as `SamePadding`.
        names: of convolution and norm in Keras.
    """

    def __init__(
        self,
        conv: nn.Module,
        norm: nn.Module | None = None,
        act: nn.Module | None = None,
        pad: nn.Module | None = None,
        names: tuple[str, str] = ("conv", "bn"),
    ) -> None:
        parts = {"pad": pad, "conv": conv, "bn": norm, "act": act}
        super().__init__(OrderedDict((k, part) for k, part in parts.items() if part is not None))
        self.layout = Layout(attributes=dict(zip(("conv", "bn"), names)), group="{child}")


def adjust_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, the next one if that is more than a tenth less."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest
