"""The hybrid encoder of RT-DETR (arXiv:2304.08069) as D-FINE has it: attention within the coarsest
maps, then a feature pyramid down and up again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..layers.convolution import BatchNormalization, Conv2D, no_view
from ..layers.core import Dense, LayerNormalization
from ..layers.layer import Layer
from ..layers.layout import Layout, Parts, Stack
from .attention import NORMAL, DFineMultiheadAttention


class DFineConvNormLayer(Layer, nn.Sequential):
    """Convolution, norm and, if given, activation."""

    layout = Layout(prefix="{}_")

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel_size: int = 1,
        strides: int = 1,
        groups: int = 1,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.convolution = Conv2D(
            channels,
            filters,
            kernel_size,
            strides,
            padding=kernel_size // 2,
            groups=groups,
            use_bias=False,
            kernel_initializer=NORMAL,
        )
        self.normalization = BatchNormalization(filters, epsilon=1e-5)
        if activation is not None:
            self.activation = activation


def active(channels: int, filters: int, kernel_size: int = 1) -> DFineConvNormLayer:
    return DFineConvNormLayer(channels, filters, kernel_size, activation=nn.SiLU())


class DFineRepVggBlock(Layer):
    """A 3 × 3 and a 1 × 1 convolution side by side."""

    layout = Layout(attributes={"conv1": "conv1_layer", "conv2": "conv2_layer"})

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = DFineConvNormLayer(channels, channels, 3)
        self.conv2 = DFineConvNormLayer(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.conv1(x) + self.conv2(x))


class DFineCSPRepLayer(Layer):
    """Blocks in a row, beside a single convolution."""

    def __init__(self, channels: int, filters: int, num_blocks: int) -> None:
        super().__init__()
        self.conv1 = active(channels, filters)
        self.conv2 = active(channels, filters)
        self.bottleneck_layers = Stack(
            "bottleneck_{}", (DFineRepVggBlock(filters) for _ in range(num_blocks))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(x)
        for block in self.bottleneck_layers:
            y = block(y)
        return y + self.conv2(x)


class DFineFeatureAggregationBlock(Layer):
    """Two maps, joined, → one: ever deeper branches of one half of the channels, all joined."""

    def __init__(self, dim: int, middle: int, num_blocks: int) -> None:
        super().__init__()
        self.conv1 = active(2 * dim, 2 * dim)
        self.csp_rep1 = DFineCSPRepLayer(dim, middle, num_blocks)
        self.conv2 = active(middle, middle, 3)
        self.csp_rep2 = DFineCSPRepLayer(middle, middle, num_blocks)
        self.conv3 = active(middle, middle, 3)
        self.conv4 = active(2 * dim + 2 * middle, dim)

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        joined = torch.cat(maps, dim=1).contiguous(memory_format=torch.channels_last)
        x = self.conv1(joined)
        half = x.chunk(2, dim=1)[1].contiguous(memory_format=torch.channels_last)
        y = self.conv2(self.csp_rep1(half))
        return self.conv4(torch.cat((x, y, self.conv3(self.csp_rep2(y))), dim=1))


class DFineSCDown(Layer):
    """To half the resolution: a 1 × 1 convolution, then a depthwise one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = DFineConvNormLayer(dim, dim)
        self.conv2 = DFineConvNormLayer(dim, dim, 3, 2, groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x))


class DFineEncoderLayer(Layer):
    def __init__(self, hidden_dim: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.self_attn = DFineMultiheadAttention(hidden_dim, num_heads)
        self.self_attn_layer_norm = LayerNormalization(hidden_dim, 1e-5)
        self.fc1 = Dense(hidden_dim, ffn_dim, kernel_initializer=NORMAL)
        self.fc2 = Dense(ffn_dim, hidden_dim, kernel_initializer=NORMAL)
        self.final_layer_norm = LayerNormalization(hidden_dim, 1e-5)

    def forward(
        self, x: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y, weights = self.self_attn(x, positions)
        x = self.self_attn_layer_norm(x + y)
        return self.final_layer_norm(x + self.fc2(F.gelu(self.fc1(x)))), weights


class DFineEncoder(Layer):
    """Attention between all places of a map."""

    def __init__(self, hidden_dim: int, num_heads: int, ffn_dim: int, num_layers: int) -> None:
        super().__init__()
        self.encoder_layer = Stack(
            "encoder_layer_{}",
            (DFineEncoderLayer(hidden_dim, num_heads, ffn_dim) for _ in range(num_layers)),
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[batch, dim, height, width]` → the same, and the last layer's probabilities."""
        height, width = x.shape[2:]
        positions = sinusoids(height, width, x.shape[1], x.device).to(x.dtype)
        weights = x.new_empty(0)
        x = no_view(x.flatten(2).mT)
        for layer in self.encoder_layer:
            x, weights = layer(x, positions)
        x = no_view(x.mT.unflatten(2, (height, width)))
        return x.contiguous(memory_format=torch.channels_last), weights


def sinusoids(height: int, width: int, dim: int, device: torch.device) -> torch.Tensor:
    """Positions in a plane, `[height · width, dim]`, in float32.

    They go column by column, where a map's pixels go row by row: in maps that are not square,
    places are taken for others.
    """
    frequencies = 10000.0 ** -(torch.arange(dim // 4, device=device) / (dim // 4))
    columns = torch.arange(width, device=device)[:, None] * frequencies
    rows = torch.arange(height, device=device)[:, None] * frequencies
    columns = columns[:, None].expand(-1, height, -1).flatten(0, 1)
    rows = rows.expand(width, -1, -1).flatten(0, 1)
    return torch.cat((columns.sin(), columns.cos(), rows.sin(), rows.cos()), dim=1)


class DFineHybridEncoder(Layer):
    """Maps, each with what the others show.

    Args:
        num_maps: how many.
        attentive: which of them have attention within.
        hidden_dim: width of the maps.
        num_layers: of the attention in each.
        expansion: width of branches for that of maps.
        depth: a third of how many blocks a branch has.
    """

    def __init__(
        self,
        num_maps: int,
        attentive: Sequence[int],
        hidden_dim: int,
        num_heads: int,
        ffn_dim: int,
        num_layers: int,
        expansion: float,
        depth: float,
    ) -> None:
        super().__init__()
        self.attentive = attentive if num_layers else ()
        self.encoder = Parts(
            "d_fine_encoder_{}",
            (DFineEncoder(hidden_dim, num_heads, ffn_dim, num_layers) for _ in attentive),
        )
        steps = range(num_maps - 1)
        aggregate = functools.partial(
            DFineFeatureAggregationBlock,
            hidden_dim,
            int(expansion * hidden_dim / 2),
            round(3 * depth),
        )
        self.lateral_convs = Parts(
            functools.partial(_downwards, "lateral_conv", num_maps),
            (DFineConvNormLayer(hidden_dim, hidden_dim) for _ in steps),
        )
        self.fpn_blocks = Parts(
            functools.partial(_downwards, "fpn_block", num_maps), (aggregate() for _ in steps)
        )
        self.downsample_convs = Parts(
            "downsample_conv_{}", (DFineSCDown(hidden_dim) for _ in steps)
        )
        self.pan_blocks = Parts("pan_block_{}", (aggregate() for _ in steps))

    @property
    def layout(self) -> Layout:
        """Steps down and up are made in turns."""
        order = [*self.encoder.names()]
        for first, second in (
            (self.lateral_convs, self.fpn_blocks),
            (self.downsample_convs, self.pan_blocks),
        ):
            order += [name for pair in zip(first.names(), second.names()) for name in pair]
        return Layout(order=order)

    def forward(
        self, maps: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Maps `[batch, dim, height, width]`, the finest first → the same; what goes into the
        attention of each, and what comes out of the last one; and the probabilities of each.
        """
        states, attentions = [], []
        after = list(maps)
        for i, encoder in zip(self.attentive, self.encoder):
            states.append(maps[i])
            after[i], weights = encoder(maps[i])
            attentions.append(weights)
        if self.attentive:
            states.append(after[self.attentive[-1]])
        *finer, x = after
        inner = []
        for lateral, block, fine in zip(self.lateral_convs, self.fpn_blocks, reversed(finer)):
            inner.append(lateral(x))
            x = block(F.interpolate(inner[-1], fine.shape[2:], mode="nearest"), fine)
        outputs = [x]
        for down, block, coarse in zip(self.downsample_convs, self.pan_blocks, reversed(inner)):
            outputs.append(block(down(outputs[-1]), coarse))
        return outputs, states, attentions


def _downwards(name: str, num_maps: int, i: int) -> str:
    """Of the i-th step from the coarsest map, which has the highest number."""
    return f"{name}_{num_maps - 1 - i}"
