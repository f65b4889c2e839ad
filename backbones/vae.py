"""The autoencoder of latent diffusion (arXiv:2112.10752) as Stable Diffusion 3 has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ._backbone import Backbone
from ._inputs import Images
from .layers.attention import attend
from .layers.convolution import (
    Conv2D,
    GroupNormalization,
    channels_back,
    channels_first,
    check_data_format,
)
from .layers.dtypes import DTypeLike
from .layers.layer import Layer
from .layers.layout import Layout, Parts, Stack
from .layers.vision import check_equally_long, check_images

GROUPS = 32
MID = ("mid_block_0", "mid_attention", "mid_block_1")
OUTPUT = ("output_norm", "output_projection")


def norm(channels: int) -> GroupNormalization:
    return GroupNormalization(GROUPS, channels, epsilon=1e-6)


def conv(inputs: int, filters: int) -> Conv2D:
    return Conv2D(inputs, filters, 3, padding="same")


class Conv2DMultiHeadAttention(Layer):
    """Attention of one head between all places of a map."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.group_norm = norm(filters)
        self.query_conv2d = Conv2D(filters, filters, 1)
        self.key_conv2d = Conv2D(filters, filters, 1)
        self.value_conv2d = Conv2D(filters, filters, 1)
        self.output_conv2d = Conv2D(filters, filters, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.group_norm(x)
        q, k, v = (  # `[batch, 1, height · width, channels]`
            project(y).flatten(2).mT[:, None]
            for project in (self.query_conv2d, self.key_conv2d, self.value_conv2d)
        )
        y = attend(q, k, v)[:, 0].mT.unflatten(2, x.shape[2:])
        return x + self.output_conv2d(y)


class ResNetBlock(Layer):
    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.norm1 = norm(channels)
        self.conv1 = conv(channels, filters)
        self.norm2 = norm(filters)
        self.conv2 = conv(filters, filters)
        self.residual_projection: nn.Module = nn.Identity()
        if channels != filters:
            self.residual_projection = Conv2D(channels, filters, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return self.residual_projection(x) + y


def block_names(num_blocks: Sequence[int]) -> list[list[str]]:
    """Of each resolution."""
    return [[f"block_{i}_{j}" for j in range(count)] for i, count in enumerate(num_blocks)]


def created(num_blocks: Sequence[int], between: str) -> list[str]:
    """Names of blocks and of the convolutions between resolutions, as Keras makes them."""
    first, *rest = block_names(num_blocks)
    return [*first, *(n for i, names in enumerate(rest) for n in (between.format(i), *names))]


class Coder(Layer):
    """What both halves share: blocks at several resolutions, and attention at the lowest one."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        num_filters: Sequence[int],
        num_blocks: Sequence[int],
        lowest: int,
    ) -> None:
        super().__init__()
        self.num_blocks = num_blocks
        self.input_projection = conv(inputs, num_filters[0])
        blocks = []
        channels = num_filters[0]
        for filters, count in zip(num_filters, num_blocks):
            for _ in range(count):
                blocks.append(ResNetBlock(channels, filters))
                channels = filters
        names = [name for stage in block_names(num_blocks) for name in stage]
        self.blocks = Stack(names.__getitem__, blocks)
        self.mid_block_0 = ResNetBlock(lowest, lowest)
        self.mid_attention = Conv2DMultiHeadAttention(lowest)
        self.mid_block_1 = ResNetBlock(lowest, lowest)
        self.output_norm = norm(channels)
        self.output_projection = conv(channels, outputs)

    def mid(self, x: torch.Tensor) -> torch.Tensor:
        return self.mid_block_1(self.mid_attention(self.mid_block_0(x)))

    def stages(self) -> list[list[ResNetBlock]]:
        """The blocks of each resolution."""
        blocks = iter(self.blocks)
        return [[next(blocks) for _ in range(count)] for count in self.num_blocks]

    def output(self, x: torch.Tensor) -> torch.Tensor:
        return self.output_projection(F.silu(self.output_norm(x)))


class VAEEncoder(Coder):
    """Images → means and logarithms of variances, `[batch, channels, height / 2ⁿ, width / 2ⁿ]`."""

    def __init__(
        self, inputs: int, outputs: int, num_filters: Sequence[int], num_blocks: Sequence[int]
    ) -> None:
        super().__init__(inputs, outputs, num_filters, num_blocks, num_filters[-1])
        self.downsamples = Parts(
            "downsample_{}_conv", (Conv2D(width, width, 3, 2) for width in num_filters[:-1])
        )
        self.layout = Layout(
            order=("input_projection", *created(num_blocks, "downsample_{}_conv"), *MID, *OUTPUT)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.input_projection(x)
        first, *rest = self.stages()
        for block in first:
            x = block(x)
        for downsample, blocks in zip(self.downsamples, rest):
            x = downsample(F.pad(x, (0, 1, 0, 1)))
            for block in blocks:
                x = block(x)
        return self.output(self.mid(x))


class VAEDecoder(Coder):
    """Latents → images, `[batch, channels, height · 2ⁿ, width · 2ⁿ]`."""

    def __init__(
        self, inputs: int, outputs: int, num_filters: Sequence[int], num_blocks: Sequence[int]
    ) -> None:
        super().__init__(inputs, outputs, num_filters, num_blocks, num_filters[0])
        self.upsamples = Parts(
            "upsample_{}_conv", (conv(width, width) for width in num_filters[:-1])
        )
        self.layout = Layout(
            order=("input_projection", *MID, *created(num_blocks, "upsample_{}_conv"), *OUTPUT)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mid(self.input_projection(x))
        first, *rest = self.stages()
        for block in first:
            x = block(x)
        for upsample, blocks in zip(self.upsamples, rest):
            x = upsample(F.interpolate(x, scale_factor=2, mode="nearest"))
            for block in blocks:
                x = block(x)
        return self.output(x)


def drawn_like(x: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    if generator is None:
        return torch.randn_like(x)
    return torch.randn(x.shape, generator=generator, device=generator.device).to(x)


class VAEBackbone(Backbone):
    """Variational autoencoder of images.

    Images `[batch, height, width, input_channels]` → what the decoder makes of their latents,
    `[batch, height, width, output_channels]`. `encode` and `decode` are the halves.

    Args:
        encoder_num_filters: channels of the encoder at each resolution, multiples of 32.
        encoder_num_blocks: residual blocks there.
        decoder_num_filters: channels of the decoder at each resolution, the lowest first.
        decoder_num_blocks: residual blocks there.
        sampler_method: `sample` draws latents around their means, `mode` takes the means.
        input_channels: of the images.
        sample_channels: of means and variances together.
        output_channels: of the decoder's images.
        scale, shift: by which a diffusion model has latents, `(latents - shift) · scale`; without
            effect here.
        data_format: `channels_last` or `channels_first`, of images and latents; `None` for the
            first. (KerasHub fails with the second.)
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: arguments of different lengths, channels that 32 groups do not divide, an odd
            `sample_channels`, an unknown method, or images of other channels.
    """

    registered_name = "VAEBackbone"
    input_channels: int
    sample_channels: int
    encoder_num_filters: Sequence[int]
    unsaved: ClassVar = {"data_format": (None, "channels_last")}

    def __init__(
        self,
        encoder_num_filters: Sequence[int],
        encoder_num_blocks: Sequence[int],
        decoder_num_filters: Sequence[int],
        decoder_num_blocks: Sequence[int],
        sampler_method: str = "sample",
        input_channels: int = 3,
        sample_channels: int = 32,
        output_channels: int = 3,
        scale: float = 1.5305,
        shift: float = 0.0609,
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        for key in ("encoder", "decoder"):
            filters, blocks = (getattr(self, f"{key}_num_{k}") for k in ("filters", "blocks"))
            check_equally_long(
                **{f"{key}_num_filters": filters, f"{key}_num_blocks": blocks},
            )
            if not filters or any(width < 1 or width % GROUPS for width in filters):
                raise ValueError(
                    f"{key}_num_filters={filters} must be multiples of {GROUPS}, the groups of its "
                    "norms."
                )
            # Behind a decoder's last blocks any number of channels will do.
            inner = len(filters) - (key == "decoder")
            if any(
                earlier != later and not count
                for earlier, later, count in zip(filters, filters[1:inner], blocks[1:inner])
            ):
                raise ValueError(
                    f"{key}_num_blocks={blocks} must be positive where {key}_num_filters change."
                )
        if sample_channels < 2 or sample_channels % 2:
            raise ValueError(f"sample_channels={sample_channels} must be even and positive.")
        if sampler_method not in ("sample", "mode"):
            raise ValueError(f"sampler_method={sampler_method!r} must be 'sample' or 'mode'.")
        self.data_format = check_data_format(data_format)
        self.encoder = VAEEncoder(
            input_channels, sample_channels, encoder_num_filters, encoder_num_blocks
        )
        self.decoder = VAEDecoder(
            sample_channels // 2, output_channels, decoder_num_filters, decoder_num_blocks
        )

    def encode(
        self, images: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Latents, `[batch, height / 2ⁿ, width / 2ⁿ, sample_channels / 2]`.

        Args:
            generator: draws them, on any device; by default PyTorch's own.
        """
        smallest = 2 ** (len(self.encoder_num_filters) - 1)
        check_images(images, self.data_format, self.input_channels, at_least=smallest)
        moments = self.encoder(channels_first(images, self.data_format))
        return self.sample(moments, generator)

    def sample(
        self, moments: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Latents, of what the encoder says of them: `[batch, sample_channels, height, width]`."""
        mean, log_variance = moments.chunk(2, dim=1)
        if self.sampler_method == "sample":
            deviation = (log_variance.clamp(-30, 20) * 0.5).exp()
            mean = mean + deviation * drawn_like(mean, generator)
        mean = mean.contiguous(memory_format=torch.channels_last)
        return channels_back(mean, self.data_format)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images, `[batch, height · 2ⁿ, width · 2ⁿ, output_channels]`."""
        check_images(latents, self.data_format, self.sample_channels // 2)
        x = self.decoder(channels_first(latents, self.data_format))
        return channels_back(x, self.data_format)

    def forward(self, images: Images) -> torch.Tensor:
        return self.decode(self.encode(images))
