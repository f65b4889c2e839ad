"""Sound for the encoder, and a text for the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .audio.base import AudioConverter
from .audio.moonshine import MoonshineAudioConverter
from .audio.whisper import WhisperAudioConverter
from .causal_lm import detokenized
from .packers import StartEndPacker
from .preprocessor import Preprocessor, samples, with_labels
from .seq_2_seq_lm import Seq2SeqLMPreprocessor
from .tokenizers.base import Tokenizer


class AudioToTextPreprocessor(Seq2SeqLMPreprocessor):
    """Recordings and what is said in them; a subclass says how."""

    task = "audio_to_text"


class MoonshineAudioToTextPreprocessor(AudioToTextPreprocessor):
    """Recordings and what is said in them, for Moonshine.

    Args:
        audio_converter: the model's.
        tokenizer: the model's.
        decoder_sequence_length: of the decoder's rows.
        encoder_sequence_length: nothing; KerasHub saves it.
    """

    backbone = "MoonshineBackbone"
    processor = "Wav2Vec2Processor"
    audio_converter: MoonshineAudioConverter

    def __init__(
        self,
        audio_converter: AudioConverter,
        tokenizer: Tokenizer,
        decoder_sequence_length: int = 1024,
        encoder_sequence_length: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, encoder_sequence_length, decoder_sequence_length, **kwargs)
        self.audio_converter = audio_converter  # type: ignore[assignment]

    def __call__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        decoder_sequence_length: int | None = None,
        sequence_length: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """To train on: the backbone's inputs, the decoder's tokens that follow, and which count.

        Args:
            x: mapping of `audio`, a batch of clips, and `text`, a list; or a list of mappings.
            y: ignored, as is `sample_weight`.
            decoder_sequence_length: in place of the preprocessor's.
            sequence_length: another name of it.
            kwargs: nothing.
        """
        x = _with_audio(samples(x)[0], "text")
        length = decoder_sequence_length or sequence_length or self.decoder_sequence_length
        ids, mask = self.decoder_packer(
            self.tokenizer.tokenize(x["text"]), sequence_length=length + 1
        )
        inputs = {
            **self._encoder_inputs(x["audio"]),
            "decoder_token_ids": ids[..., :-1],
            "decoder_padding_mask": mask[..., :-1],
        }
        return with_labels(inputs, ids[..., 1:], mask[..., 1:])

    def generate_preprocess(
        self,
        x: Any,
        *,
        decoder_sequence_length: int | None = None,
        sequence_length: int | None = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        """To transcribe: the backbone's inputs, the decoder's a start token.

        Args:
            x: mapping of `audio`, a batch of clips, and perhaps `text` that each begins with.
            decoder_sequence_length: in place of the preprocessor's.
            sequence_length: another name of it.
            kwargs: nothing.
        """
        x = _with_audio(x)
        encoder = self._encoder_inputs(x["audio"])
        count = len(encoder["encoder_input_values"])
        text = x.get("text")
        start = self.tokenizer.start_token_id
        # As in KerasHub, the packer adds one more.
        rows: Any = [[start]] * count
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            texts = texts * count if len(texts) == 1 else texts
            if len(texts) != count:
                raise ValueError(f"There are {count} recordings and {len(texts)} texts.")
            rows = self.tokenizer.tokenize(texts)
        ids, mask = self.decoder_packer(
            rows,
            sequence_length=decoder_sequence_length or sequence_length,
            add_end_value=False,
        )
        return {**encoder, "decoder_token_ids": ids, "decoder_padding_mask": mask}

    def generate_postprocess(self, x: Mapping[str, Any]) -> Any:
        """Text of what the decoder has generated, without padding and special tokens."""
        ids = torch.as_tensor(x["decoder_token_ids"])
        known = (ids >= 0) & (ids < self.tokenizer.vocabulary_size())
        known &= ids != self.tokenizer.pad_token_id
        return detokenized(self.tokenizer, ids, torch.as_tensor(x["decoder_padding_mask"]) & known)

    def _encoder_inputs(self, audio: Any) -> dict[str, torch.Tensor]:
        values = self.audio_converter(audio, padding="longest")
        values = values if values.ndim == 3 else values[None]
        mask = values[..., 0] != self.audio_converter.padding_value
        return {"encoder_input_values": values, "encoder_padding_mask": mask}


class WhisperPreprocessor(Preprocessor):
    """Recordings and what is said in them, for Whisper; KerasHub has no such class.

    What the decoder writes begins with `<|startoftranscript|>`, the language and the task where
    the tokenizer knows languages, and `<|notimestamps|>`.

    Args:
        audio_converter: the model's.
        tokenizer: the model's.
        decoder_sequence_length: of the decoder's rows.
        language: a code such as `en`.
        task: `transcribe`, or `translate` into English.
        timestamps: whether the decoder writes when something is said.
    """

    backbone = "WhisperBackbone"
    processor = "WhisperProcessor"
    tokenizer: Any
    audio_converter: WhisperAudioConverter

    def __init__(
        self,
        audio_converter: AudioConverter,
        tokenizer: Tokenizer,
        decoder_sequence_length: int = 448,
        language: str = "en",
        task: str = "transcribe",
        timestamps: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if task not in ("transcribe", "translate"):
            raise ValueError(f"task must be 'transcribe' or 'translate', not {task!r}.")
        self.audio_converter = audio_converter  # type: ignore[assignment]
        self.tokenizer = tokenizer
        self.decoder_sequence_length = decoder_sequence_length
        self.language = language
        self.task = task  # type: ignore[misc]
        self.timestamps = timestamps

    @property
    def sequence_length(self) -> int:
        return self.decoder_sequence_length

    @property
    def decoder_start(self) -> list[int]:
        """What tells the decoder what to write."""
        tokenizer = self.tokenizer
        start = [tokenizer.bos_token_id]
        languages = tokenizer.language_tokens
        if languages is not None:
            token = f"<|{self.language}|>"
            if token not in languages:
                known = ", ".join(sorted(name.strip("<|>") for name in languages))
                raise ValueError(f"The tokenizer has no language {self.language!r}, but {known}.")
            tasks = {
                "transcribe": tokenizer.transcribe_token_id,
                "translate": tokenizer.translate_token_id,
            }
            start += [languages[token], tasks[self.task]]
        elif self.language != "en" or self.task != "transcribe":
            raise ValueError("This tokenizer is for transcribing English alone.")
        return start if self.timestamps else [*start, tokenizer.no_timestamps_token_id]

    @property
    def decoder_packer(self) -> StartEndPacker:
        return StartEndPacker(
            sequence_length=self.decoder_sequence_length,
            start_value=self.decoder_start,
            end_value=self.tokenizer.eos_token_id,
            pad_value=self.tokenizer.pad_token_id,
            return_padding_mask=True,
        )

    def __call__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        sequence_length: int | None = None,
    ) -> Any:
        """To train on: the backbone's inputs, the decoder's tokens that follow, and which count.

        Args:
            x: mapping of `audio`, a batch of clips, and `text`, a list; or a list of mappings.
            y: ignored, as is `sample_weight`.
            sequence_length: of the decoder's rows, in place of the preprocessor's.
        """
        x = _with_audio(samples(x)[0], "text")
        length = sequence_length or self.decoder_sequence_length
        ids, mask = self.decoder_packer(
            self.tokenizer.tokenize(x["text"]), sequence_length=length + 1
        )
        inputs = {
            "encoder_features": self.audio_converter(x["audio"]),
            "decoder_token_ids": ids[..., :-1],
            "decoder_padding_mask": mask[..., :-1],
        }
        return with_labels(inputs, ids[..., 1:], mask[..., 1:])

    def generate_preprocess(
        self, x: Any, sequence_length: int | None = None
    ) -> dict[str, torch.Tensor]:
        """To transcribe: the backbone's inputs, the decoder's what tells it what to write.

        Args:
            x: a clip, a batch or a list of clips; or a mapping that has them as `audio`.
            sequence_length: of the decoder's rows, in place of the preprocessor's.
        """
        audio = x["audio"] if isinstance(x, Mapping) and "audio" in x else x
        features = self.audio_converter(audio)
        rows: Any = [[]] * len(features) if features.ndim == 3 else []
        ids, mask = self.decoder_packer(rows, sequence_length=sequence_length, add_end_value=False)
        return {
            "encoder_features": features,
            "decoder_token_ids": ids,
            "decoder_padding_mask": mask,
        }

    def generate_postprocess(self, x: Mapping[str, Any]) -> Any:
        """Text of what the decoder has generated, without padding, special tokens and times."""
        ids, mask = (
            torch.as_tensor(x["decoder_token_ids"]),
            torch.as_tensor(x["decoder_padding_mask"]),
        )
        known = list((self.tokenizer.language_tokens or {}).values())
        languages = torch.tensor(known, device=ids.device)
        times = ids > self.tokenizer.no_timestamps_token_id
        return detokenized(self.tokenizer, ids, mask.bool() & ~times & ~torch.isin(ids, languages))


def _with_audio(x: Any, *others: str) -> Mapping[str, Any]:
    """The mapping, if it has what is needed."""
    needed = ("audio", *others)
    if not isinstance(x, Mapping) or not x.keys() >= set(needed):
        shown = ", ".join(map(str, x)) if isinstance(x, Mapping) else type(x).__name__
        raise ValueError(f"The input is a mapping of {' and '.join(needed)}, not {shown}.")
    return x
