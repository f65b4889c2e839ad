"""Gemma 4's log-mel spectrogram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .._checkpoint import Checkpoint, differs, setting
from .base import AudioConverter, at_length, check_sizes, note_cut
from .spectrograms import hann_window, htk_points, triangles

# Arguments → what transformers calls them, and what it has where a file does not say.
SETTINGS: dict[str, tuple[str, Any]] = {
    "num_mels": ("feature_size", 128),
    "sampling_rate": ("sampling_rate", 16000),
    "min_frequency": ("min_frequency", 0.0),
    "max_frequency": ("max_frequency", 8000.0),
    "mel_floor": ("mel_floor", 1e-3),
}
# What does not happen here, unless it is this.
WITHOUT = {"preemphasis": 0.0, "dither": 0.0, "input_scale_factor": 1.0, "padding_value": 0.0}


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

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        if not checkpoint.config.get("audio_config"):  # the processor is there all the same
            raise FileNotFoundError(f"{checkpoint.source.handle} does not hear.")
        settings = checkpoint.settings(cls.kind)
        found: dict[str, Any] = {}
        for name, (key, default) in SETTINGS.items():
            value = setting(settings, key, type(default), *(int,) * isinstance(default, float))
            found[name] = default if value is None else value
        for name, key, milliseconds in (
            ("frame_length", "frame_length", 20.0),
            ("stride", "hop_length", 10.0),
        ):
            given = setting(settings, f"{key}_ms", float, int)
            usual = round(found["sampling_rate"] * (given or milliseconds) / 1000.0)
            samples = setting(settings, key, int)
            found[name] = usual if given is not None or samples is None else samples
        double = bool(setting(settings, "fft_overdrive", bool))
        found["num_fft_bins"] = transform_length(found["frame_length"]) * (1 + double)
        notes = [
            f"{name}={settings[name]}, which is {value} here"
            for name, value in WITHOUT.items()
            if settings.get(name, value) != value
        ]
        differs(f"The feature extractor of {checkpoint.source.handle}", notes)
        return {**found, **per_bin(settings)}

    def to_transformers(self) -> dict[str, Any]:
        usual = transform_length(self.frame_length)
        if self.num_fft_bins not in (usual, 2 * usual):
            raise NotImplementedError(
                f"transformers has no num_fft_bins={self.num_fft_bins} for windows of "
                f"frame_length={self.frame_length}, but {usual} or {2 * usual}."
            )
        return {
            "feature_extractor_type": "Gemma4AudioFeatureExtractor",
            **{key: getattr(self, name) for name, (key, _) in SETTINGS.items()},
            "frame_length_ms": self.frame_length / self.sampling_rate * 1000.0,
            "frame_length": self.frame_length,
            "hop_length_ms": self.stride / self.sampling_rate * 1000.0,
            "hop_length": self.stride,
            "fft_length": self.num_fft_bins,
            "fft_overdrive": self.num_fft_bins > usual,
            **{name: getattr(self, name) for name in ("per_bin_mean", "per_bin_stddev")},
            **WITHOUT,
            "padding_side": "right",
            "return_attention_mask": True,
        }

    def audio_shape(self) -> tuple[int | None, ...]:
        return (self.num_samples // self.stride, self.num_mels)

    def __call__(self, audio: Any, sampling_rate: int | None = None) -> torch.Tensor:
        """Spectrograms of sound, whose `sampling_rate` is compared where it is given."""
        clips, single = self.clips(audio, sampling_rate)
        note_cut(clips, self.num_samples, self.sampling_rate)
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


def transform_length(frame_length: int) -> int:
    """Of the Fourier transform for a window: a power of two."""
    return 2 ** math.ceil(math.log2(max(frame_length, 1)))


def per_bin(settings: Mapping[str, Any]) -> dict[str, list[float] | None]:
    """Means and deviations of each filter, in transformers' files in lists of lists."""
    found: dict[str, list[float] | None] = {}
    for name in ("per_bin_mean", "per_bin_stddev"):
        value = setting(settings, name, list)
        found[name] = None if value is None else np.asarray(value, float).flatten().tolist()
    return found


class EmbeddingGemma2AudioConverter(Gemma4AudioConverter):
    """See `Gemma4AudioConverter`."""
