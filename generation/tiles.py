"""An autoencoder's halves, tile by tile, with the result of the whole.

What a large image needs most memory for are the maps of its highest resolutions. Each convolution
there is computed in tiles that see a pixel around them, and each norm with the statistics of the
whole map: nothing is blended, and there are no seams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Compute = Callable[..., torch.Tensor]


def encode_in_tiles(encoder: Any, images: torch.Tensor, tile: int, store: torch.device) -> Any:
    """`[batch, channels, height, width]` → moments, equal to `encoder(images)` up to rounding.

    Args:
        encoder: a `VAEEncoder`.
        tile: side of a tile in pixels of a map.
        store: where whole maps are kept.
    """
    device = images.device
    x = by_tiles(encoder.input_projection, tile, device, images.to(store))
    first, *rest = encoder.stages()
    for block in first:
        x = _block(block, x, tile, device)
    for downsample, blocks in zip(encoder.downsamples, rest):
        x = _shrunk(downsample, x, tile, device)
        for block in blocks:
            x = _block(block, x, tile, device)
    return encoder.output(encoder.mid(x.to(device)))


def decode_in_tiles(decoder: Any, latents: torch.Tensor, tile: int, store: torch.device) -> Any:
    """`[batch, channels, height, width]` → images, equal to `decoder(latents)` up to rounding.

    Args:
        decoder: a `VAEDecoder`.
        tile: side of a tile in pixels of a map.
        store: where whole maps are kept.
    """
    device = latents.device
    x = decoder.mid(decoder.input_projection(latents)).to(store)
    first, *rest = decoder.stages()
    for block in first:
        x = _block(block, x, tile, device)
    for upsample, blocks in zip(decoder.upsamples, rest):
        enlarge = _enlarging(upsample)
        x = by_tiles(enlarge, tile, device, x, scale=2)
        for block in blocks:
            x = _block(block, x, tile, device)
    return by_tiles(
        _normed(decoder.output_norm, decoder.output_projection, x, tile), tile, device, x
    )


def _block(block: Any, x: torch.Tensor, tile: int, device: torch.device) -> torch.Tensor:
    y = by_tiles(_normed(block.norm1, block.conv1, x, tile), tile, device, x)
    second = _normed(block.norm2, block.conv2, y, tile)

    def residual(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return block.residual_projection(x) + second(y)

    return by_tiles(residual, tile, device, y, x)


def _shrunk(conv: nn.Module, x: torch.Tensor, tile: int, device: torch.device) -> torch.Tensor:
    """A convolution of stride 2, tile by tile of what it reads."""
    step = max(tile // 2, 1)
    whole = None
    height, width = (side // 2 for side in x.shape[2:])
    for top in range(0, height, step):
        for left in range(0, width, step):
            bottom, right = min(top + step, height), min(left + step, width)
            part = x[:, :, 2 * top : 2 * bottom + 1, 2 * left : 2 * right + 1].to(device)
            below, beside = 2 * bottom + 1 - x.shape[2], 2 * right + 1 - x.shape[3]
            part = conv(F.pad(part, (0, max(beside, 0), 0, max(below, 0))))
            if whole is None:
                whole = part.new_empty((*part.shape[:2], height, width), device=x.device)
            whole[:, :, top:bottom, left:right].copy_(part)
    assert whole is not None
    return whole


def _enlarging(conv: nn.Module) -> Compute:
    return lambda x: conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def _normed(norm: Any, conv: nn.Module, x: torch.Tensor, tile: int) -> Compute:
    """Norm, SiLU and convolution of tiles of `x`, whose statistics are known beforehand."""
    factor, summand = _affine(norm, x, tile)

    def compute(tile: torch.Tensor) -> torch.Tensor:
        normed = torch.addcmul(summand.to(tile.device), tile.float(), factor.to(tile.device))
        return conv(F.silu(normed.to(tile.dtype)))

    return compute


def _affine(norm: Any, x: torch.Tensor, tile: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A group norm of `x` as a factor and a summand for each channel, `[batch, channels, 1, 1]`."""
    sums = x.new_zeros((2, *x.shape[:2]), dtype=torch.float64)
    for strip in x.split(tile, dim=2):
        for part in strip.split(tile, dim=3):
            wide = part.double()
            sums += torch.stack((wide.sum((2, 3)), wide.square().sum((2, 3))))
    groups = sums.unflatten(2, (norm.num_groups, -1))
    mean, square = groups.mean(3, keepdim=True) / (x.shape[2] * x.shape[3])
    scale = (square - mean.square() + norm.eps).rsqrt()
    weight, bias = (
        one.to(x.device).double().view(1, norm.num_groups, -1) for one in (norm.weight, norm.bias)
    )
    factor, summand = scale * weight, bias - mean * scale * weight
    return tuple(one.flatten(1)[..., None, None].float() for one in (factor, summand))


def by_tiles(
    compute: Compute, tile: int, device: torch.device, *maps: torch.Tensor, scale: int = 1
) -> torch.Tensor:
    """What a convolution of 3 × 3 makes of maps of one size, wherever they are kept.

    Args:
        compute: the same of a part of the maps, on `device`.
        scale: by which it enlarges them.
    """
    height, width = maps[0].shape[2:]
    whole = None
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            above, before = min(top, 1), min(left, 1)
            rows = slice(top - above, min(bottom + 1, height))
            columns = slice(left - before, min(right + 1, width))
            part = compute(*(one[:, :, rows, columns].to(device) for one in maps))
            part = part[:, :, above * scale :, before * scale :]
            part = part[:, :, : (bottom - top) * scale, : (right - left) * scale]
            if whole is None:
                shape = (*part.shape[:2], height * scale, width * scale)
                whole = part.new_empty(shape, device=maps[0].device)
            place = whole[:, :, top * scale : bottom * scale, left * scale : right * scale]
            place.copy_(part)
    assert whole is not None
    return whole
