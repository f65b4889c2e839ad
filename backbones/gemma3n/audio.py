"""Gemma 3n's audio tower: a Conformer (arXiv:2005.08100) of the Universal Speech Model
(arXiv:2303.01037).

Shapes: B clips, T frames, D `hidden_size`. Masks are true where there is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import nn
from torch.nn import functional as F

from .._inputs import Input
from .._model import Component
from ..layers.convolution import Conv2D, DepthwiseConv1D
from ..layers.core import Dense
from ..layers.dtypes import DTypeLike
from ..layers.layer import Layer
from ..layers.layout import Layout, Stack
from .audio_attention import Gemma3nAudioAttention
from .norms import Gemma3nRMSNorm

Clips = Annotated[torch.Tensor, Input("values", ("clips", "frames", "mel_bins"))]
ClipsMask = Annotated[torch.Tensor, Input("mask", ("clips", "frames"))]


def clip(x: torch.Tensor, limit: float) -> torch.Tensor:
    limit = min(limit, torch.finfo(x.dtype).max)
    return x.clamp(-limit, limit)


class Gemma3nAudioCumulativeGroupNorm(Layer):
    """Norm over channels and frequencies, each frame by the statistics of all until then."""

    compute_dtype: torch.dtype | None = None

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, channels, T, frequencies]`."""
        dtype, x = x.dtype, x.float()
        frames = torch.arange(1, x.shape[2] + 1, device=x.device)[:, None]
        count = frames * (x.shape[1] * x.shape[3])
        x = x - x.sum((1, 3), keepdim=True).cumsum(2) / count
        variance = x.square().sum((1, 3), keepdim=True).cumsum(2) / count
        x = x * torch.rsqrt(variance + self.epsilon) * self.weight.float()[:, None, None]
        return x.to(dtype)


class Gemma3nAudioSSCPConvBlock(Layer):
    """A convolution that looks ahead in time, a norm and a ReLU."""

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel_size: tuple[int, int],
        strides: tuple[int, int],
        epsilon: float,
    ) -> None:
        super().__init__()
        self.ahead = kernel_size[0] - 1
        self.conv = Conv2D(channels, filters, kernel_size, strides, use_bias=False)
        self.norm = Gemma3nAudioCumulativeGroupNorm(filters, epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(F.pad(x, (1, 1, 0, self.ahead)))))


class Gemma3nAudioSubSampleConvProjection(Layer):
    """Two convolutions with strides in time and frequency, and a projection."""

    def __init__(
        self,
        input_feat_size: int,
        hidden_size: int,
        channels: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        epsilon: float,
    ) -> None:
        super().__init__()
        bins, blocks = input_feat_size, []
        for before, filters, kernel, stride in zip((1, *channels), channels, kernel_sizes, strides):
            size, step = (kernel[0], kernel[1]), (stride[0], stride[1])
            blocks.append(Gemma3nAudioSSCPConvBlock(before, filters, size, step, epsilon))
            bins = (bins + 2 - size[1]) // step[1] + 1
            if bins < 1:
                raise ValueError(f"input_feat_size={input_feat_size} is smaller than the kernels.")
        self.conv_0, self.conv_1 = blocks
        self.input_proj_linear = Dense(bins * channels[-1], hidden_size, use_bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, T, mel bins]` → `[B, T / strides, D]`."""
        x = self.conv_1(self.conv_0(x[:, None]))
        return self.input_proj_linear(x.permute(0, 2, 3, 1).flatten(2))


class Gemma3nAudioConformerFeedForward(Layer):
    def __init__(self, dim: int, limit: float, weight: float, epsilon: float) -> None:
        super().__init__()
        self.limit = limit
        self.weight = weight
        self.pre_layer_norm = Gemma3nRMSNorm(dim, epsilon)
        self.ffw_layer_1 = Dense(dim, 4 * dim, use_bias=False)
        self.ffw_layer_2 = Dense(4 * dim, dim, use_bias=False)
        self.post_layer_norm = Gemma3nRMSNorm(dim, epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.silu(self.ffw_layer_1(self.pre_layer_norm(clip(x, self.limit))))
        y = clip(self.ffw_layer_2(y), self.limit)
        return x + self.post_layer_norm(y) * self.weight


class Gemma3nAudioConformerAttention(Layer):
    def __init__(self, dim: int, limit: float, attention: Gemma3nAudioAttention) -> None:
        super().__init__()
        self.limit = limit
        self.pre_attn_norm = Gemma3nRMSNorm(dim)
        self.attn = attention
        self.post = Dense(dim, dim, use_bias=False)
        self.post_norm = Gemma3nRMSNorm(dim)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        y = self.attn(self.pre_attn_norm(clip(x, self.limit)), mask)
        return x + self.post_norm(clip(self.post(y), self.limit))


class Gemma3nAudioConformerLightConv1d(Layer):
    """A gate, then a causal convolution of each channel by itself."""

    def __init__(self, dim: int, kernel_size: int, limit: float, epsilon: float) -> None:
        super().__init__()
        self.limit = limit
        self.before = kernel_size - 1
        self.pre_layer_norm = Gemma3nRMSNorm(dim, epsilon)
        self.linear_start = Dense(dim, 2 * dim, use_bias=False)
        self.depthwise_conv1d = DepthwiseConv1D(dim, kernel_size, use_bias=False)
        self.conv_norm = Gemma3nRMSNorm(dim, epsilon)
        self.linear_end = Dense(dim, dim, use_bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.glu(self.linear_start(self.pre_layer_norm(x)), dim=-1)
        y = self.depthwise_conv1d(F.pad(y.mT, (self.before, 0))).mT
        return self.linear_end(F.silu(self.conv_norm(clip(y, self.limit)))) + x


class Gemma3nAudioConformerBlock(Layer):
    def __init__(
        self,
        dim: int,
        attention: Gemma3nAudioAttention,
        kernel_size: int,
        limit: float,
        residual_weight: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.limit = limit
        self.ffw_layer_start = Gemma3nAudioConformerFeedForward(
            dim, limit, residual_weight, epsilon
        )
        self.attention = Gemma3nAudioConformerAttention(dim, limit, attention)
        self.lconv1d = Gemma3nAudioConformerLightConv1d(dim, kernel_size, limit, epsilon)
        self.ffw_layer_end = Gemma3nAudioConformerFeedForward(dim, limit, residual_weight, epsilon)
        self.norm = Gemma3nRMSNorm(dim, epsilon)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.attention(self.ffw_layer_start(x), mask)
        x = self.lconv1d(x * ~mask[..., None])
        return self.norm(clip(self.ffw_layer_end(x), self.limit))


class Gemma3nAudioEncoder(Component):
    """Spectrograms → tokens.

    `features` `[B, T, input_feat_size]` and `mask` `[B, T]`, true for padding →
    `[B, tokens, hidden_size]`, zeros where there is padding.

    Args:
        hidden_size: width of the hidden states, an even number.
        input_feat_size: mel bins of a frame.
        sscp_conv_channel_size: channels of the two convolutions that make frames fewer.
        sscp_conv_kernel_size: extents of each in time and frequency.
        sscp_conv_stride_size: strides of each in time and frequency.
        sscp_conv_group_norm_eps: epsilon of their norms.
        num_hidden_layers: number of blocks.
        rms_norm_eps: epsilon of the norms, but for those around attention, which have 1e-6.
        gradient_clipping: bound on the hidden states.
        residual_weight: factor of what feed-forward networks add.
        num_attention_heads: number of attention heads, a divisor of `hidden_size`.
        attention_chunk_size: frames of a block of attention.
        num_attention_context_right: frames that a frame sees behind it.
        num_attention_context_left: frames that it sees before it, itself included.
        attention_logit_cap: bound on the attention scores, by tanh.
        conv_kernel_size: frames that a block's convolution sees.
        reduction_factor: of so many frames one becomes a token.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: not two convolutions, or widths that cannot be divided.
    """

    layout = Layout()
    hidden_size: int
    input_feat_size: int

    def __init__(
        self,
        hidden_size: int,
        input_feat_size: int,
        sscp_conv_channel_size: Sequence[int],
        sscp_conv_kernel_size: Sequence[Sequence[int]],
        sscp_conv_stride_size: Sequence[Sequence[int]],
        sscp_conv_group_norm_eps: float,
        num_hidden_layers: int,
        rms_norm_eps: float,
        gradient_clipping: float,
        residual_weight: float,
        num_attention_heads: int,
        attention_chunk_size: int,
        num_attention_context_right: int,
        num_attention_context_left: int,
        attention_logit_cap: float,
        conv_kernel_size: int,
        reduction_factor: int,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        for argument in ("channel_size", "kernel_size", "stride_size"):
            value = getattr(self, f"sscp_conv_{argument}")
            if len(value) != 2:
                raise ValueError(f"sscp_conv_{argument}={value} must be of two convolutions.")
        if hidden_size % 2 or hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size={hidden_size} must be divisible by 2 and by "
                f"num_attention_heads={num_attention_heads}."
            )
        self.strides = [*(stride[0] for stride in sscp_conv_stride_size), reduction_factor]
        self.subsample_conv_projection = Gemma3nAudioSubSampleConvProjection(
            input_feat_size,
            hidden_size,
            sscp_conv_channel_size,
            sscp_conv_kernel_size,
            sscp_conv_stride_size,
            sscp_conv_group_norm_eps,
        )
        self.conformer = Stack(
            "conformer_block_{}",
            (
                Gemma3nAudioConformerBlock(
                    hidden_size,
                    Gemma3nAudioAttention(
                        hidden_size,
                        num_attention_heads,
                        attention_chunk_size,
                        num_attention_context_right,
                        max(0, num_attention_context_left - 1),
                        attention_logit_cap,
                    ),
                    conv_kernel_size,
                    gradient_clipping,
                    residual_weight,
                    rms_norm_eps,
                )
                for _ in range(num_hidden_layers)
            ),
        )

    def tokens(self, frames: int) -> int:
        """How many tokens a clip of so many frames gives."""
        for stride in self.strides:
            frames = (frames - 1) // stride + 1
        return frames

    def forward(self, features: Clips, mask: ClipsMask) -> torch.Tensor:
        x = self.subsample_conv_projection(features)
        places = torch.arange(x.shape[1], device=x.device) * (self.strides[0] * self.strides[1])
        mask = mask.bool()[:, places.clamp(max=mask.shape[1] - 1)]
        for block in self.conformer:
            x = block(x, mask)
        return (x * ~mask[..., None])[:, :: self.strides[-1]]
