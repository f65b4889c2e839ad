"""Gemma 4's log-mel spectrogram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .base import AudioConverter, at_length, check_sizes
from .spectrograms import hann_window, htk_points, triangles


class Gemma4AudioConverter(AudioConverter):
    """Log-mel spectrograms `[frames, num_mels]`, or `[batch, frames, num_mels]`, of clips cut or
    filled up to `max_audio_length`.

    Args:
        num_mels: number of filters.
        num_fft_bins: length of the Fourier transform.
        stride: samples from one window to the next.
        sampling_rate: samples per second.
        max_audio_length: seconds of all clips.
        min_frequency: of the lowest filter, in Hz.
        max_frequency: of the highest filter, in Hz.
        mel_floor: is added before the logarithm.
        per_bin_mean: of each filter, to be subtracted.
        per_bin_stddev: of each filter, to be divided by.
        frame_length: samples of a window, the first of the transform; all of them if `None`.
        kwargs: `name`, `trainable`, `dtype`.

    Raises:
        TypeError: no audio, or integers.
        ValueError: another sampling rate, more than one channel, or no samples.
    """

    def __init__(
        self,
        num_mels: int = 128,
        num_fft_bins: int = 512,
        stride: int = 160,
        sampling_rate: int = 16000,
        max_audio_length: int = 30,
        min_frequency: float = 0.0,
        max_frequency: float = 8000.0,
        mel_floor: float = 1e-5,
        per_bin_mean: Sequence[float] | None = None,
        per_bin_stddev: Sequence[float] | None = None,
        frame_length: int | None = 320,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_samples = sampling_rate * max_audio_length
        self.frame_length = frame_length or num_fft_bins
        check_sizes(
            self.num_samples,
            num_mels=num_mels,
            num_fft_bins=num_fft_bins,
            stride=stride,
            frame_length=self.frame_length,
        )
        self.num_mels = num_mels
        self.num_fft_bins = num_fft_bins
        self.stride = stride
        self.sampling_rate = sampling_rate
        self.max_audio_length = max_audio_length
        self.min_frequency = min_frequency
        self.max_frequency = max_frequency
        self.mel_floor = float(mel_floor)
        check_filters(num_mels, per_bin_mean, per_bin_stddev)
        self.per_bin_mean = per_bin_mean
        self.per_bin_stddev = per_bin_stddev
        self.window = hann_window(self.frame_length)
        points = htk_points(min_frequency, max_frequency, num_mels + 2)
        filters = triangles(points, np.fft.rfftfreq(num_fft_bins, 1.0 / sampling_rate))
        self.mel_filters = torch.from_numpy(filters.astype(np.float32))

    def audio_shape(self) -> tuple[int | None, ...]:
        return (self.num_samples // self.stride, self.num_mels)

    def __call__(self, audio: Any, sampling_rate: int | None = None) -> torch.Tensor:
        """Spectrograms of sound, whose `sampling_rate` is compared where it is given."""
        clips, single = self.clips(audio, sampling_rate)
        waves = at_length(clips, self.num_samples).float()
        features = self.features(waves).to(self.compute_dtype)
        return features[0] if single else features

    def features(self, waves: torch.Tensor) -> torch.Tensor:
        """`[batch, samples]` → `[batch, frames, mels]`."""
        count = self.num_samples // self.stride
        before = self.frame_length // 2
        needed = (count - 1) * self.stride + self.frame_length
        waves = F.pad(waves, (before, max(needed - before - self.num_samples, 0)))
        frames = waves.unfold(-1, self.frame_length, self.stride)[:, :count]
        frames = frames * self.window.to(waves.device)
        spectrum = torch.fft.rfft(frames, self.num_fft_bins).abs()
        mels = (spectrum @ self.mel_filters.to(waves.device) + self.mel_floor).log()
        return standardized(mels, self.per_bin_mean, self.per_bin_stddev)


def check_filters(count: int, *lists: Sequence[float] | None) -> None:
    """Raise ValueError for numbers of filters of which there are not as many."""
    for one in lists:
        if one is not None and len(one) != count:
            raise ValueError(f"There are {len(one)} means or deviations for {count} filters.")


def standardized(
    mels: torch.Tensor, mean: Sequence[float] | None, deviation: Sequence[float] | None
) -> torch.Tensor:
    """Minus the mean and divided by the deviation of each filter, as far as they are given."""
    if mean is not None:
        mels = mels - mels.new_tensor(mean)
    return mels if deviation is None else mels / mels.new_tensor(deviation)
