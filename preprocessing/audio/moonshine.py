"""Moonshine takes sound as it is."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from .._checkpoint import Checkpoint, differs, setting
from .base import AudioConverter, at_length, check_length, check_sizes

SECONDS = (0.1, 64.0)


class MoonshineAudioConverter(AudioConverter):
    """Samples `[batch, samples, 1]`, or `[samples, 1]` of a clip that is in no batch.

    Args:
        sampling_rate: samples per second.
        padding_value: what clips are filled up with.
        do_normalize: whether clips get mean 0 and deviation 1, padding included.
        kwargs: `name`, `trainable`, `dtype`.

    Raises:
        TypeError: no audio, or integers.
        ValueError: another sampling rate, more than one channel, or no samples.
    """

    def __init__(
        self,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        do_normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(1, sampling_rate=sampling_rate)
        self.sampling_rate = sampling_rate
        self.padding_value = padding_value
        self.do_normalize = do_normalize

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        settings = {"do_normalize": True, **checkpoint.settings(cls.kind)}
        rate, value = (
            setting(settings, name, int, float) for name in ("sampling_rate", "padding_value")
        )
        normal = setting(settings, "do_normalize", bool)
        _note_normal(f"The feature extractor of {checkpoint.source.handle}", normal)
        found = {"sampling_rate": rate, "padding_value": value, "do_normalize": normal}
        return {name: value for name, value in found.items() if value is not None}

    def to_transformers(self) -> dict[str, Any]:
        _note_normal("That of transformers", self.do_normalize)
        return {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "sampling_rate": self.sampling_rate,
            "padding_side": "right",
            "padding_value": self.padding_value,
            "do_normalize": self.do_normalize,
            "return_attention_mask": True,
        }

    def __call__(
        self,
        inputs: Any,
        sampling_rate: int | None = None,
        padding: str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> torch.Tensor:
        """Samples of sound, a warning where it lasts less than 0.1 or more than 64 seconds.

        Args:
            inputs: sound.
            sampling_rate: is compared with what there must be.
            padding: `longest`, or `max_length` for clips of that many samples, longer ones cut.
                Clips of several lengths are filled up to the longest in any case.
            max_length: in samples.
            pad_to_multiple_of: to which the length is rounded up, if `padding` is given.
        """
        if padding not in (None, "longest", "max_length"):
            raise ValueError(f"padding must be 'longest' or 'max_length', not {padding!r}.")
        clips, single = self.clips(inputs, sampling_rate)
        longest = max(map(len, clips))
        if not SECONDS[0] <= longest / self.sampling_rate <= SECONDS[1]:
            warnings.warn(
                f"Moonshine is made for 0.1 to 64 seconds; these are "
                f"{longest / self.sampling_rate:.2f}. Cut longer recordings into pieces.",
                stacklevel=2,
            )
        length = max_length if padding == "max_length" and max_length is not None else longest
        if pad_to_multiple_of and (padding == "longest" or length is max_length):
            length += -length % pad_to_multiple_of
        waves = at_length(clips, check_length(length), self.padding_value)[..., None]
        if self.do_normalize:
            variance, mean = torch.var_mean(waves, 1, correction=0, keepdim=True)
            waves = (waves - mean) / (variance + 1e-7).sqrt()
        waves = waves.to(self.compute_dtype)
        return waves[0] if single else waves


def _note_normal(what: str, do_normalize: bool) -> None:
    differs(what, ["do_normalize=True: here padding counts, too"] if do_normalize else [])
