"""What a feature pyramid gives: maps of several resolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from .vision import image_channels

EncoderType = TypeVar("EncoderType", bound=nn.Module)


@dataclass(frozen=True)
class Level:
    """One feature map.

    Attributes:
        name: `P2` for a quarter of the image's resolution and so on.
        channels: its width.
        stride: pixels of the image for one of the map.
    """

    name: str
    channels: int
    stride: int


class PyramidOutputs(Mapping[str, Callable[[Any], torch.Tensor]]):
    """The levels of a feature pyramid: call it on images for all of them, or one level alone.

    Args:
        levels: in the order of the model.
        compute: images → the map of each level by name.
    """

    def __init__(
        self, levels: Sequence[Level], compute: Callable[[Any], dict[str, torch.Tensor]]
    ) -> None:
        self.levels = {level.name: level for level in levels}
        self.compute = compute

    def __call__(self, images: Any) -> dict[str, torch.Tensor]:
        return self.compute(images)

    def __getitem__(self, name: str) -> Callable[[Any], torch.Tensor]:
        if name not in self.levels:
            raise KeyError(name)
        return lambda images: self.compute(images)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.levels)

    def __len__(self) -> int:
        return len(self.levels)


def own_dtype(encoder: EncoderType) -> EncoderType:
    """The encoder, which as in KerasHub keeps its dtype in a model of another one."""
    encoder.fixed_dtype = encoder.dtype_policy
    return encoder


def check_encoder(encoder: Any, data_format: str, channels: int) -> None:
    """Refuse an encoder of images of another order or number of channels."""
    theirs = getattr(encoder, "data_format", None) or "channels_last"
    if theirs != data_format:
        raise ValueError(
            f"image_encoder has data_format={theirs!r} and must have this model's, {data_format!r}."
        )
    shape = encoder.image_shape
    if image_channels(shape, data_format) != channels:
        raise ValueError(
            f"image_encoder has image_shape={tuple(shape)} and must have {channels} channels, as "
            "image_shape of this model."
        )
