"""The layers of Gemma 4's tower of sound, a Conformer (arXiv:2005.08100)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..layers.convolution import Conv2D, DepthwiseConv1D
from ..layers.core import Dense, LayerNormalization
from ..layers.division import Whole
from ..layers.initializers import glorot_uniform
from ..layers.layer import Layer
from ..layers.layout import Layout
from .clipped import Gemma4ClippableDense


class Gemma4FrozenNorm(Layer):
    """`x / rms(x) · weight`, which is not trained."""

    weight: torch.Tensor

    def __init__(self, dim: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.register_buffer("weight", torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.epsilon)
        return normed.to(x.dtype)


class Gemma4AudioSSCPConvBlock(Layer):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        strides: tuple[int, int],
        padding: int,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.padding = padding
        self.stride = strides[0]
        self.conv = Conv2D(in_channels, out_channels, kernel_size, strides, use_bias=False)
        self.norm = LayerNormalization(out_channels, epsilon, center=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[clips, channels, frames, features]` and which frames are real; fewer of them."""
        x = F.pad(x * mask[:, None, :, None], (1, 1, self.padding, self.padding))
        x = self.norm(self.conv(x).permute(0, 2, 3, 1)).relu().permute(0, 3, 1, 2)
        return x, mask[:, :: self.stride][:, : x.shape[2]]


class Gemma4AudioSubSampleConvProjection(Layer):
    layout = Layout(outside=True)

    def __init__(
        self,
        num_features: int,
        hidden_size: int,
        channels: Sequence[int],
        kernel_sizes: Sequence[tuple[int, int]],
        strides: Sequence[tuple[int, int]],
        epsilon: float,
    ) -> None:
        super().__init__()
        padding = kernel_sizes[0][0] // 2

        def block(inputs: int, i: int) -> Gemma4AudioSSCPConvBlock:
            return Gemma4AudioSSCPConvBlock(
                inputs, channels[i], kernel_sizes[i], strides[i], padding, epsilon
            )

        self.conv_0 = block(1, 0)
        self.conv_1 = block(channels[0], 1)
        for (_, kernel), (_, stride) in zip(kernel_sizes, strides):
            num_features = (num_features + 2 - kernel) // stride + 1
        self.input_proj = Dense(channels[1] * num_features, hidden_size, use_bias=False)

    def forward(self, mel: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[clips, frames, features]` → `[clips, fewer frames, hidden_size]`, and the mask."""
        x, mask = self.conv_0(mel[:, None], mask)
        x, mask = self.conv_1(x, mask)
        return self.input_proj(x.permute(0, 2, 3, 1).flatten(2)), mask


class Gemma4AudioRelativePositionEmbedding(Layer):
    """Sines and cosines of distances, projected; the farthest back comes first."""

    def __init__(self, hidden_size: int, num_heads: int, past: int, future: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.past, self.future = past, future
        width = hidden_size // num_heads * num_heads
        self.pos_proj = nn.Parameter(torch.empty(hidden_size, width))
        glorot_uniform(self.pos_proj, hidden_size, width)

    def forward(self) -> torch.Tensor:
        """`[heads, head_dim, distances]`."""
        device, half = self.pos_proj.device, self.hidden_size // 2
        distances = torch.arange(self.past, -self.future - 1, -1, device=device)
        step = math.log(1e4) / max(half - 1, 1)
        angles = distances[:, None] * torch.exp(torch.arange(half, device=device) * -step)
        signal = torch.cat((angles.sin(), angles.cos()), dim=-1).to(self.pos_proj.dtype)
        return (signal @ self.pos_proj).unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0)


class Gemma4AudioAttention(Layer):
    """Attention of chunks of queries to the frames before each of them; distances count.

    Scores are float32.
    """

    layout = Layout(
        names={name: f"{{}}_{name}" for name in ("q_proj", "k_proj", "v_proj")}, outside=True
    )

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        chunk_size: int,
        past: int,
        future: int,
        logit_cap: float,
        invalid_logit_value: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.chunk_size = chunk_size
        self.past, self.future = past, future
        self.logit_cap = logit_cap
        self.hidden_score = invalid_logit_value
        width = num_heads * self.head_dim
        self.q_proj = Gemma4ClippableDense(hidden_size, width)
        self.k_proj = Gemma4ClippableDense(hidden_size, width)
        self.v_proj = Gemma4ClippableDense(hidden_size, width)
        self.per_dim_scale = nn.Parameter(torch.zeros(self.head_dim))
        self.rpe = Gemma4AudioRelativePositionEmbedding(hidden_size, num_heads, past, future)

    def context(self, x: torch.Tensor, value: float = 0) -> torch.Tensor:
        """`[clips, frames, …]` → what each chunk may see, `[clips, chunks, …, context]`."""
        after = self.future + self.chunk_size - 1
        x = F.pad(x, (*[0] * (2 * (x.ndim - 2)), self.past, after), value=value)
        return x.unfold(1, self.past + self.chunk_size + self.future, self.chunk_size)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`x` `[clips, frames, dim]`, `mask` `[clips, frames]`, true for real frames."""
        frames, heads = x.shape[1], (self.num_heads, self.head_dim)
        q, k, v = (
            project(x.float()).float().unflatten(-1, heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        # The scales are 1 / √dim and 1 / ln 2 at first.
        q = q * (self.head_dim**-0.5 / math.log(2)) * F.softplus(self.per_dim_scale.float())
        k = k * (math.log1p(math.e) / math.log(2))
        size = self.chunk_size
        q = F.pad(q, (0, 0, 0, 0, 0, size - 1)).unfold(1, size, size).permute(0, 2, 1, 4, 3)
        k, v = (self.context(one).transpose(1, 2) for one in (k, v))  # [clips, heads, chunks, …]

        place = torch.arange(size, device=x.device)
        key = torch.arange(k.shape[-1], device=x.device)
        distance = key - place[:, None]
        distances = (q @ self.rpe().float()[:, None]).gather(
            -1, distance.clamp(0, self.past + self.future).expand(*q.shape[:-1], -1)
        )
        scores = torch.tanh((q @ k + distances) / self.logit_cap) * self.logit_cap
        seen = (distance > 0) & (distance <= self.past)
        seen = seen & self.context(mask.float()).bool()[:, None, :, None]
        weights = scores.masked_fill(~seen, self.hidden_score).softmax(-1)
        y = (weights @ v.mT).permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)
        # A slice would keep compiled code from lengths that the chunks divide, or do not.
        return y.index_select(1, torch.arange(frames, device=x.device)).to(x.dtype)


class Gemma4AudioConformerAttention(Layer):
    layout = Layout(names={"attn": "{}_attn", "out_proj": "{}_out_proj"}, outside=True)

    def __init__(self, hidden_size: int, attn: Gemma4AudioAttention, epsilon: float, limit: float):
        super().__init__()
        self.limit = limit
        self.pre_attn_norm = Gemma4FrozenNorm(hidden_size, epsilon)
        self.attn = attn
        self.out_proj = Gemma4ClippableDense(hidden_size, hidden_size)
        self.post_norm = Gemma4FrozenNorm(hidden_size, epsilon)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        y = self.attn(self.pre_attn_norm(clip(x, self.limit)), mask)
        return x + self.post_norm(clip(self.out_proj(y), self.limit))


class Gemma4AudioConformerFeedForward(Layer):
    layout = Layout(names={"ffw_1": "{}_ffw_1", "ffw_2": "{}_ffw_2"}, outside=True)

    def __init__(self, hidden_size: int, weight: float, epsilon: float, limit: float) -> None:
        super().__init__()
        self.residual_weight = weight
        self.limit = limit
        self.pre_norm = Gemma4FrozenNorm(hidden_size, epsilon)
        self.ffw_1 = Gemma4ClippableDense(hidden_size, 4 * hidden_size)
        self.ffw_2 = Gemma4ClippableDense(4 * hidden_size, hidden_size)
        self.post_norm = Gemma4FrozenNorm(hidden_size, epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ffw_2(F.silu(self.ffw_1(self.pre_norm(clip(x, self.limit)))))
        return x + self.residual_weight * self.post_norm(clip(y, self.limit))


class Gemma4AudioConformerLightConv1d(Layer):
    """A gate, and a convolution of each channel over the frames before."""

    layout = Layout(
        names={"linear_start": "{}_linear_start", "linear_end": "{}_linear_end"}, outside=True
    )

    def __init__(self, hidden_size: int, kernel_size: int, epsilon: float, limit: float) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.limit = limit
        self.pre_norm = Gemma4FrozenNorm(hidden_size, epsilon)
        self.linear_start = Gemma4ClippableDense(hidden_size, 2 * hidden_size)
        self.depthwise_conv = DepthwiseConv1D(hidden_size, kernel_size, use_bias=False)
        self.conv_norm = Gemma4FrozenNorm(hidden_size, epsilon)
        self.linear_end = Gemma4ClippableDense(hidden_size, hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.glu(self.linear_start(self.pre_norm(x))).mT
        y = self.depthwise_conv(F.pad(y, (self.kernel_size - 1, 0))).mT
        return x + self.linear_end(F.silu(self.conv_norm(clip(y, self.limit))))


class Gemma4AudioConformerBlock(Layer):
    division = Whole()
    layout = Layout(
        names={name: f"{{}}_{name}" for name in ("ffw_start", "attention", "lconv", "ffw_end")}
    )

    def __init__(
        self,
        hidden_size: int,
        attn: Gemma4AudioAttention,
        kernel_size: int,
        residual_weight: float,
        limit: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.limit = limit
        parts = (hidden_size, residual_weight, epsilon, limit)
        self.ffw_start = Gemma4AudioConformerFeedForward(*parts)
        self.attention = Gemma4AudioConformerAttention(hidden_size, attn, epsilon, limit)
        self.lconv = Gemma4AudioConformerLightConv1d(hidden_size, kernel_size, epsilon, limit)
        self.ffw_end = Gemma4AudioConformerFeedForward(*parts)
        self.norm = Gemma4FrozenNorm(hidden_size, epsilon)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.attention(self.ffw_start(x), mask)
        x = self.ffw_end(self.lconv(x * mask[..., None]))
        return self.norm(clip(x, self.limit))


def clip(x: torch.Tensor, limit: float) -> torch.Tensor:
    limit = min(limit, torch.finfo(x.dtype).max)
    return x.clamp(-limit, limit)
