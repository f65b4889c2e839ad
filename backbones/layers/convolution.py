"""Convolutions and what goes with them, over `[batch, channels, height, width]` unless said."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .initializers import Initializer, glorot_uniform, keras_fans, zeros


def channels_first(images: torch.Tensor, data_format: str) -> torch.Tensor:
    """A view with the channels second, whatever the layout given."""
    return images.permute(0, 3, 1, 2) if data_format == "channels_last" else images


def channels_back(x: torch.Tensor, data_format: str) -> torch.Tensor:
    """Undo `channels_first`."""
    return x.permute(0, 2, 3, 1) if data_format == "channels_last" else x


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


class Convolution(nn.modules.conv._ConvNd):
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
        return self._conv_forward(x.to(dtype), self.weight.to(dtype), bias)

    @staticmethod
    def to_kernel(weight: torch.Tensor) -> torch.Tensor:
        """`[out, in, *size]` → Keras kernel `[*size, in, out]`."""
        return weight.permute(*range(2, weight.ndim), 1, 0)

    @staticmethod
    def from_kernel(kernel: torch.Tensor) -> torch.Tensor:
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
    """Convolution; `padding` pixels on each side, or `"same"` for an equal size at stride 1."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        padding: int | str = 0,
        groups: int = 1,
        use_bias: bool = True,
        kernel_initializer: Initializer = glorot_uniform,
    ) -> None:
        self.kernel_initializer = kernel_initializer
        super().__init__(
            in_channels, filters, kernel_size, strides, padding, groups=groups, bias=use_bias
        )


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


class BatchNormalization(nn.Module):
    """Batch norm with Keras's moving statistics: the variance is the biased one.

    As in Keras it keeps to the moving statistics while its weights are frozen.
    """

    compute_dtype: torch.dtype | None = None

    def __init__(self, channels: int, epsilon: float = 1e-3, momentum: float = 0.99) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.running_mean: torch.Tensor
        self.running_var: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or self.weight.dtype
        x = x.to(dtype)
        weight, bias = self.weight.float(), self.bias.float()
        mean, var = self.running_mean.float(), self.running_var.float()
        if self.training and self.weight.requires_grad:
            self._update(x.detach())
            return F.batch_norm(x, None, None, weight, bias, True, 0.0, self.epsilon)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, self.epsilon)

    @torch.no_grad()
    def _update(self, x: torch.Tensor) -> None:
        var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), 1 - self.momentum)
        self.running_var.lerp_(var.to(self.running_var.dtype), 1 - self.momentum)


class GroupNormalization(nn.GroupNorm):
    """Group norm over `[batch, channels, …]`; its statistics are in float32."""

    compute_dtype: torch.dtype | None = None

    def __init__(self, groups: int, channels: int, epsilon: float = 1e-3) -> None:
        super().__init__(groups, channels, eps=epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        x = F.group_norm(x.float(), self.num_groups, weight, bias, self.eps)
        return x.to(self.compute_dtype or self.weight.dtype)
