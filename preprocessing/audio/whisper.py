"""Whisper's log-mel spectrogram."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .._checkpoint import Checkpoint, differs, setting
from .base import AudioConverter, at_length, check_sizes, note_cut
from .spectrograms import hann_window, slaney_points, triangles

# 8 kHz.
HIGHEST_MEL = 45.245640471924965
# Arguments → what transformers calls them.
SETTINGS = {
    "num_mels": "feature_size",
    "num_fft_bins": "n_fft",
    "stride": "hop_length",
    "sampling_rate": "sampling_rate",
    "max_audio_length": "chunk_length",
}


class WhisperAudioConverter(AudioConverter):
    """Log-mel spectrograms `[frames, num_mels]`, or `[batch, frames, num_mels]`, of clips cut or
    filled up to `max_audio_length`.

    Args:
        num_mels: number of filters.
        num_fft_bins: samples of a window.
        stride: samples from one window to the next.
        sampling_rate: samples per second.
        max_audio_length: seconds of all clips.
        kwargs: `name`, `trainable`, `dtype`.

    Raises:
        TypeError: no audio, or integers.
        ValueError: another sampling rate, more than one channel, or no samples.
    """

    def __init__(
        self,
        num_mels: int = 80,
        num_fft_bins: int = 400,
        stride: int = 160,
        sampling_rate: int = 16000,
        max_audio_length: int = 30,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_samples = sampling_rate * max_audio_length
        check_sizes(self.num_samples, num_mels=num_mels, num_fft_bins=num_fft_bins, stride=stride)
        if num_fft_bins // 2 >= self.num_samples:
            raise ValueError(
                f"A clip of {self.num_samples} samples is shorter than half a window, "
                f"num_fft_bins={num_fft_bins}."
            )
        self.num_mels = num_mels
        self.num_fft_bins = num_fft_bins
        self.stride = stride
        self.sampling_rate = sampling_rate
        self.max_audio_length = max_audio_length
        self.window = hann_window(num_fft_bins)
        points = slaney_points(0.0, HIGHEST_MEL, num_mels + 2)
        filters = triangles(points, np.fft.rfftfreq(num_fft_bins, 1.0 / sampling_rate))
        filters = filters.astype(np.float32) * (2.0 / (points[2:] - points[:-2]))  # equal areas
        self.mel_filters = torch.from_numpy(filters.astype(np.float32))

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        settings = checkpoint.settings(cls.kind)
        found = {name: setting(settings, key, int) for name, key in SETTINGS.items()}
        notes = [
            f"{name}={settings[name]}, which is 0 here"
            for name in ("dither", "padding_value")
            if settings.get(name)
        ]
        differs(f"The feature extractor of {checkpoint.source.handle}", notes)
        return {name: value for name, value in found.items() if value is not None}

    def to_transformers(self) -> dict[str, Any]:
        return {
            "feature_extractor_type": "WhisperFeatureExtractor",
            **{key: getattr(self, name) for name, key in SETTINGS.items()},
            "n_samples": self.num_samples,
            "nb_max_frames": self.num_samples // self.stride,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": False,
        }

    def audio_shape(self) -> tuple[int | None, ...]:
        return (self.max_audio_length, self.num_mels)

    def __call__(self, audio: Any, sampling_rate: int | None = None) -> torch.Tensor:
        """Spectrograms of sound, whose `sampling_rate` is compared where it is given."""
        clips, single = self.clips(audio, sampling_rate)
        note_cut(clips, self.num_samples, self.sampling_rate)
        waves = at_length(clips, self.num_samples).float()
        features = self.features(waves).to(self.compute_dtype)
        return features[0] if single else features

    def features(self, waves: torch.Tensor) -> torch.Tensor:
        """`[batch, samples]` → `[batch, frames, mels]`."""
        spectrum = torch.stft(
            waves,
            self.num_fft_bins,
            self.stride,
            window=self.window.to(waves.device),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = spectrum[..., :-1].abs().square().transpose(1, 2)  # without the last frame
        mels = (power @ self.mel_filters.to(waves.device)).clamp_min(1e-10).log10()
        loudest = mels.amax((1, 2), keepdim=True)
        return (torch.maximum(mels, loudest - 8.0) + 4.0) / 4.0
