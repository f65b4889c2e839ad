"""What all audio converters do around their own step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from .._converter import Converter
from .inputs import as_clips

MAX_SAMPLES = 2**28


class AudioConverter(Converter):
    """Makes sound into what a backbone takes; a subclass says how.

    Sound is a clip `[samples]`, a batch `[batch, samples]`, or a list of clips of any lengths. A
    clip is a tensor, which stays on its device, an array, the path of a wav file, or a dictionary
    of `array` and `sampling_rate`, of floating-point numbers from -1 to 1.

    Args:
        kwargs: `name`, `trainable`, `dtype`.
    """

    kind: ClassVar[str] = "audio_converter"
    sampling_rate: int = 16000

    def audio_shape(self) -> tuple[int | None, ...]:
        """Of what it makes of one clip."""
        return (None,)

    def clips(self, audio: Any, rate: int | None) -> tuple[list[torch.Tensor], bool]:
        """See `as_clips`."""
        return as_clips(audio, self.sampling_rate, rate)


def note_cut(clips: Sequence[torch.Tensor], most: int, rate: int) -> None:
    """Say that of longer clips than `most` samples the rest is not heard."""
    longest = max(map(len, clips))
    if longest > most:
        warnings.warn(
            f"Of {longest / rate:.1f} seconds of sound the first {most / rate:.1f} are taken. Cut "
            "longer recordings into pieces.",
            stacklevel=3,
        )


def check_length(length: int) -> int:
    """A number of samples, or a ValueError if no clips are made so long."""
    if not 1 <= length <= MAX_SAMPLES:
        raise ValueError(f"Clips of {length:,} samples; they may have 1 to {MAX_SAMPLES:,}.")
    return length


def at_length(clips: list[torch.Tensor], length: int, value: float = 0.0) -> torch.Tensor:
    """Clips cut, or filled up at the end, `[batch, length]`."""
    batch = clips[0].new_full((len(clips), length), value)
    for row, clip in zip(batch, clips):
        row[: len(clip)] = clip[:length]
    return batch


def check_sizes(samples: int, **sizes: int) -> None:
    """Refuse what no converter has, before memory is taken.

    Raises:
        ValueError: it names the argument.
    """
    for name, size in sizes.items():
        if not 1 <= size <= 2**20:
            raise ValueError(f"{name} must be from 1 to {2**20:,}, not {size:,}.")
    check_length(samples)
