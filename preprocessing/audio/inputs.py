"""Recordings in whatever form people have them."""

from __future__ import annotations

import os
import wave
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .._arrays import as_tensor

AUDIO = "The audio"


def as_clips(value: Any, wanted_rate: int, rate: int | None) -> tuple[list[torch.Tensor], bool]:
    """Clips `[samples]` in float32 or wider, and whether there was but one, not in a batch.

    Args:
        value: a clip, `[batch, samples]`, `[batch, samples, 1]` or a list of clips. A clip is a
            tensor, an array, numbers in a list, the path of a wav file, or a dictionary of `array`
            and `sampling_rate`.
        wanted_rate: samples per second that there must be.
        rate: what the caller says that there are; None if nothing.

    Raises:
        TypeError: no audio, or integers.
        ValueError: another sampling rate, more than one channel, or no samples.
    """
    _check_rate(rate, wanted_rate)
    if isinstance(value, (list, tuple)) and value and not is_one_clip(value):
        found = [_one_clip(one, wanted_rate) for one in value]
        return [clip for clips, _ in found for clip in clips], False
    clips, single = _one_clip(value, wanted_rate)
    if not clips:
        raise ValueError("There is no audio: the batch is empty.")
    return clips, single


def is_one_clip(value: Any) -> bool:
    """Whether there is but one clip, not in a batch."""
    if isinstance(value, (list, tuple)):
        return bool(value) and isinstance(value[0], (int, float))
    return isinstance(value, (str, os.PathLike, Mapping)) or getattr(value, "ndim", 1) == 1


def _one_clip(value: Any, wanted_rate: int) -> tuple[list[torch.Tensor], bool]:
    """The clips of anything but a list of clips."""
    rate = None
    if isinstance(value, Mapping):
        value, rate = value.get("array"), value.get("sampling_rate")
    elif isinstance(value, (str, os.PathLike)):
        value, rate = read_wav(value)
    _check_rate(rate, wanted_rate)
    audio = as_tensor(value, AUDIO)
    if audio.ndim == 3 and audio.shape[-1] == 1:
        audio = audio[..., 0]
    shape = tuple(audio.shape)
    if audio.ndim not in (1, 2) or shape[1:] == (2,):
        raise ValueError(
            f"Audio has one channel, [samples] or [batch, samples]; this has shape {shape}. The "
            "mean of several channels is one."
        )
    if audio.shape[-1] == 0:
        raise ValueError(f"There are no samples in audio of shape {shape}.")
    if not audio.is_floating_point():
        raise TypeError(
            f"{AUDIO} must hold floating-point numbers from -1 to 1, not {audio.dtype}: divide "
            "int16 by 32768."
        )
    wide = torch.promote_types(audio.dtype, torch.float32)
    return list(audio.to(wide).reshape(-1, shape[-1])), audio.ndim == 1


def _check_rate(rate: Any, wanted_rate: int) -> None:
    if rate is not None and rate != wanted_rate:
        raise ValueError(
            f"The audio has {rate} samples per second; there must be {wanted_rate}. Resample it, "
            "by torchaudio.functional.resample say."
        )


def read_wav(path: str | os.PathLike[str]) -> tuple[torch.Tensor, int]:
    """Samples of a wav file of integers, from -1 to 1, and how many there are in a second.

    Raises:
        ValueError: no such file, or one of more than one channel.
        OSError: it cannot be read.
    """
    path = os.path.expanduser(os.fspath(path))
    try:
        with wave.open(path, "rb") as file:
            channels, width, rate, count = file.getparams()[:4]
            there = os.path.getsize(path) // (channels * width)
            data = file.readframes(min(count, there))  # whatever the header says
    except (wave.Error, EOFError) as error:
        raise ValueError(
            f"{path} is no wav file of integers ({error or 'it ends too early'}). Other formats "
            "are read by libraries such as soundfile, which give arrays."
        ) from error
    if channels != 1:
        raise ValueError(f"{path} has {channels} channels; audio has one. Their mean is one.")
    data = data[: len(data) // width * width]
    if width == 1:  # the only kind without a sign
        samples = np.frombuffer(data, np.uint8).astype(np.float32) - 128
    else:  # as the upper bytes of integers of four
        table = np.zeros((len(data) // width, 4), np.uint8)
        table[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
        samples = table.view("<i4")[:, 0].astype(np.float32) / 2.0 ** (32 - 8 * width)
    return torch.from_numpy(samples / 2.0 ** (8 * width - 1)), rate
