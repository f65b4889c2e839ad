"""Gemma 3n's log-mel spectrogram."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .._checkpoint import Checkpoint, setting
from .base import AudioConverter, check_length, check_sizes, note_cut
from .gemma4 import check_filters, per_bin, standardized
from .spectrograms import hann_window, htk_points, triangles

# What transformers has where a file does not say.
DEFAULTS: dict[str, Any] = {
    "feature_size": 128,
    "sampling_rate": 16000,
    "padding_value": 0.0,
    "return_attention_mask": True,
    "frame_length_ms": 32.0,
    "hop_length_ms": 10.0,
    "min_frequency": 125.0,
    "max_frequency": 7600.0,
    "preemphasis": 0.97,
    "preemphasis_htk_flavor": True,
    "fft_overdrive": True,
    "dither": 0.0,
    "input_scale_factor": 1.0,
    "mel_floor": 1e-5,
    "padding_side": "right",
}


class Gemma3nAudioConverter(AudioConverter):
    """Log-mel spectrograms `[frames, feature_size]`, or `[batch, frames, feature_size]`, and the
    mask of frames that are not padding.

    Args:
        feature_size: number of filters.
        sampling_rate: samples per second.
        padding_value: what clips are filled up with.
        return_attention_mask: where a call does not say whether there is a mask.
        frame_length_ms: of a window.
        hop_length_ms: from one window to the next.
        min_frequency: of the lowest filter, in Hz.
        max_frequency: of the highest filter, in Hz.
        preemphasis: share of the sample before that is subtracted from each one.
        preemphasis_htk_flavor: whether the first one loses a share of itself.
        fft_overdrive: whether the Fourier transform is twice as long as it has to be.
        dither: deviation of the noise that is added; drawn from `seed` and the clip itself.
        input_scale_factor: what samples are multiplied by.
        mel_floor: the least that the logarithm is taken of.
        per_bin_mean: of each filter, to be subtracted.
        per_bin_stddev: of each filter, to be divided by.
        padding_side: where clips are filled up, `right` or `left`.
        seed: of the noise; drawn at random if `None`.
        kwargs: `name`, `trainable`, `dtype`.

    Raises:
        TypeError: no audio, or integers.
        ValueError: another sampling rate, more than one channel, or no samples.
    """

    def __init__(
        self,
        feature_size: int,
        sampling_rate: int,
        padding_value: float,
        return_attention_mask: bool,
        frame_length_ms: float,
        hop_length_ms: float,
        min_frequency: float,
        max_frequency: float,
        preemphasis: float,
        preemphasis_htk_flavor: bool,
        fft_overdrive: bool,
        dither: float,
        input_scale_factor: float,
        mel_floor: float,
        per_bin_mean: Sequence[float] | None,
        per_bin_stddev: Sequence[float] | None,
        padding_side: str,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if padding_side not in ("right", "left"):
            raise ValueError(f"padding_side must be 'right' or 'left', not {padding_side!r}.")
        self.feature_size = feature_size
        self.sampling_rate = sampling_rate
        self.padding_value = padding_value
        self.return_attention_mask = return_attention_mask
        self.frame_length_ms = frame_length_ms
        self.hop_length_ms = hop_length_ms
        self.min_frequency = min_frequency
        self.max_frequency = max_frequency
        self.preemphasis = preemphasis
        self.preemphasis_htk_flavor = preemphasis_htk_flavor
        self.fft_overdrive = fft_overdrive
        self.dither = dither
        self.input_scale_factor = input_scale_factor
        self.mel_floor = mel_floor
        check_filters(feature_size, per_bin_mean, per_bin_stddev)
        self.per_bin_mean = per_bin_mean
        self.per_bin_stddev = per_bin_stddev
        self.padding_side = padding_side
        self.seed = random.randint(1, 10**9) if seed is None else seed
        self.frame_length = round(sampling_rate * frame_length_ms / 1000.0)
        self.hop_length = round(sampling_rate * hop_length_ms / 1000.0)
        check_sizes(
            1,
            feature_size=feature_size,
            frame_length_ms=self.frame_length,
            hop_length_ms=self.hop_length,
        )
        self.fft_length = 2 ** math.ceil(math.log2(self.frame_length)) * (2 if fft_overdrive else 1)
        self.window = hann_window(self.frame_length)
        bins = np.arange(self.fft_length // 2 + 1, dtype=np.float32)
        bins *= np.float32(sampling_rate / self.fft_length)
        points = htk_points(min_frequency, max_frequency, feature_size + 2, "float32")
        self.mel_filters = torch.from_numpy(triangles(points, bins).astype(np.float32))

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        if not checkpoint.config.get("audio_config"):  # the processor is there all the same
            raise FileNotFoundError(f"{checkpoint.source.handle} does not hear.")
        settings = checkpoint.settings(cls.kind)
        found: dict[str, Any] = {}
        for name, default in DEFAULTS.items():
            value = setting(settings, name, type(default), *(int,) * isinstance(default, float))
            found[name] = default if value is None else type(default)(value)
        for name in ("frame_length", "hop_length"):  # in files that transformers wrote itself
            samples = setting(settings, name, int)
            if samples is not None and settings.get(f"{name}_ms") is None:
                found[f"{name}_ms"] = samples / found["sampling_rate"] * 1000.0
        return {**found, **per_bin(settings)}

    def to_transformers(self) -> dict[str, Any]:
        lengths = {name: getattr(self, name) for name in ("frame_length", "hop_length")}
        return {
            "feature_extractor_type": "Gemma3nAudioFeatureExtractor",
            **{name: getattr(self, name) for name in DEFAULTS},
            **{name: getattr(self, name) for name in ("per_bin_mean", "per_bin_stddev")},
            **lengths,
            "fft_length": self.fft_length,
        }

    def __call__(
        self,
        raw_speech: Any,
        padding: str | bool = "longest",
        max_length: int | None = 480000,
        truncation: bool = True,
        pad_to_multiple_of: int | None = 128,
        return_attention_mask: bool | None = True,
        sampling_rate: int | None = None,
    ) -> Any:
        """Features and their mask `[batch, frames]` of sound, or features alone.

        Args:
            raw_speech: sound.
            padding: `longest` or True, `max_length`, or False for clips of one length.
            max_length: in samples.
            truncation: whether longer clips are cut.
            pad_to_multiple_of: to which both lengths are rounded up.
            return_attention_mask: whether there is a mask; `None` for what the constructor says.
            sampling_rate: is compared with what there must be.
        """
        clips, single = self.clips(raw_speech, sampling_rate)
        clips = [clip.float() for clip in clips]
        if max_length is None and (truncation or padding == "max_length"):
            raise ValueError("truncation, and padding='max_length', need a max_length.")
        if truncation and max_length is not None:
            most = check_length(_round_up(max_length, pad_to_multiple_of))
            note_cut(clips, most, self.sampling_rate)
            clips = [clip[:most] for clip in clips]
        length = self._length(clips, padding, max_length, pad_to_multiple_of)
        waves, real = self._batch(clips, length)
        features = self.features(waves, real).to(self.compute_dtype)
        mask = real[:, :: self.hop_length][:, : features.shape[1]].int()
        if single:
            features, mask = features[0], mask[0]
        masked = self.return_attention_mask if return_attention_mask is None else None
        return (features, mask) if masked or return_attention_mask else features

    def _length(
        self,
        clips: Sequence[torch.Tensor],
        padding: str | bool,
        max_length: int | None,
        multiple: int | None,
    ) -> int:
        """How many samples clips are filled up to."""
        longest = max(map(len, clips))
        if padding in (False, "do_not_pad"):
            length = longest
        elif padding in (True, "longest"):
            length = _round_up(longest, multiple)
        elif padding == "max_length":
            length = max(_round_up(max_length or 0, multiple), longest)
        else:
            raise ValueError(f"padding must be 'longest', 'max_length' or False, not {padding!r}.")
        check_length(length)
        if length == longest != min(map(len, clips)) and padding in (False, "do_not_pad"):
            raise ValueError("Without padding all clips must have one length.")
        return length

    def _batch(
        self, clips: Sequence[torch.Tensor], length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Clips filled up, and which samples are theirs, `[batch, samples]`."""
        waves = clips[0].new_full((len(clips), length), self.padding_value)
        real = torch.zeros_like(waves, dtype=torch.bool)
        for row, there, clip in zip(waves, real, clips):
            place = slice(len(clip)) if self.padding_side == "right" else slice(-len(clip), None)
            row[place] = clip
            there[place] = True
        return waves, real

    def features(self, waves: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """`[batch, samples]` → `[batch, frames, mels]`."""
        if self.dither > 0:
            noise = [self._noise(wave, there) for wave, there in zip(waves, real)]
            waves = waves + self.dither * torch.stack(noise)
        waves = waves * self.input_scale_factor
        if self.preemphasis > 0:
            rest = waves[:, 1:] - self.preemphasis * waves[:, :-1]
            share = 1.0 - self.preemphasis if self.preemphasis_htk_flavor else 1.0
            waves = torch.cat([waves[:, :1] * share, rest], 1)
        if waves.shape[1] < self.frame_length:
            return waves.new_zeros(len(waves), 0, self.feature_size)
        frames = waves.unfold(-1, self.frame_length, self.hop_length)
        frames = frames * self.window.to(waves.device)
        spectrum = torch.fft.rfft(frames, self.fft_length).abs()
        mels = (spectrum @ self.mel_filters.to(waves.device)).clamp_min(self.mel_floor).log()
        return standardized(mels, self.per_bin_mean, self.per_bin_stddev)

    def _noise(self, wave: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """The same for the same clip, whatever it is filled up to or batched with."""
        digest = hashlib.sha256(wave[real].cpu().numpy().tobytes()).digest()
        seed = (self.seed + int.from_bytes(digest[:4], "little")) % 2**32
        noise = np.random.default_rng(seed).standard_normal((1, len(wave)))[0]
        return torch.from_numpy(noise.astype(np.float32)).to(wave.device)


def _round_up(length: int, multiple: int | None) -> int:
    return length + -length % multiple if multiple else length
