"""Gemma 3n: images and sound within prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ..audio.base import at_length
from ..audio.gemma3n import Gemma3nAudioConverter
from ..audio.inputs import as_clips
from ..causal_lm import detokenized
from ..images.converter import ImageConverter
from ..preprocessor import with_labels
from ..tokenizers.base import Tokenizer
from .gemma3 import convert_rows, places_of
from .texts import Medium, PromptsPreprocessor, batched, each_text, is_none, unbatched


class Gemma3nCausalLMPreprocessor(PromptsPreprocessor):
    """Prompts, in which `<start_of_image>` and `<start_of_audio>` stand where images and clips
    are, and responses.

    With an `image_converter` there are `images` `[batch, max_images_per_prompt, height, width, 3]`,
    of which those that a sample does not have are black, `vision_indices`, where their tokens are,
    filled up with 0, and `vision_mask`. With an `audio_converter` there are `input_features`
    `[batch, max_audios_per_prompt, frames, mels]`, `input_features_mask`, true for padding,
    `audio_indices` and `audio_mask`; to generate from, `audios`, too, the clips themselves.

    Args:
        tokenizer: the model's.
        image_converter: the model's; without one there are no images.
        audio_converter: the model's; without one there is no sound.
        sequence_length: of the rows.
        add_start_token: whether a prompt begins with the start token.
        add_end_token: whether a response ends with the end token.
        max_images_per_prompt: the most that a sample may have.
        num_vision_tokens_per_image: of an image.
        max_audios_per_prompt: the most clips that a sample may have.
        num_audio_tokens_per_audio: of a clip.
    """

    backbone = "Gemma3nBackbone"
    processor = "Gemma3nProcessor"
    settings: ClassVar = {
        "image_seq_length": "vision_soft_tokens_per_image",
        "audio_seq_length": "audio_soft_tokens_per_image",
    }
    needs: ClassVar = {
        "feature_extractor": {"feature_extractor_type": "Gemma3nAudioFeatureExtractor"}
    }
    media: ClassVar = {
        "image": Medium("images", "<start_of_image>", "<image_soft_token>"),
        "audio": Medium("audios", "<start_of_audio>", "<audio_soft_token>"),
    }
    tokenizer: Any
    image_converter: ImageConverter | None
    audio_converter: Gemma3nAudioConverter | None

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_converter: ImageConverter | None = None,
        audio_converter: Gemma3nAudioConverter | None = None,
        sequence_length: int = 1024,
        add_start_token: bool = True,
        add_end_token: bool = True,
        max_images_per_prompt: int = 2,
        num_vision_tokens_per_image: int = 256,
        max_audios_per_prompt: int = 2,
        num_audio_tokens_per_audio: int = 188,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, sequence_length, add_start_token, add_end_token, **kwargs)
        most = (
            max_images_per_prompt * num_vision_tokens_per_image
            + max_audios_per_prompt * num_audio_tokens_per_audio
        )
        if (image_converter or audio_converter) and sequence_length <= most:
            raise ValueError(
                f"sequence_length is {sequence_length}; the tokens of as many images and clips as "
                f"there may be need more than {most}."
            )
        self.image_converter = image_converter
        self.audio_converter = audio_converter
        self.max_images_per_prompt = max_images_per_prompt
        self.num_vision_tokens_per_image = num_vision_tokens_per_image
        self.max_audios_per_prompt = max_audios_per_prompt
        self.num_audio_tokens_per_audio = num_audio_tokens_per_audio

    def __call__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        sequence_length: int | None = None,
    ) -> Any:
        """To train on: the backbone's inputs, the tokens that follow, and which of these belong to
        responses.

        Args:
            x: mapping of `prompts`, `responses` and perhaps `images` and `audios`, of one or
                several samples; or a list of mappings. A sample has an image or a list of them,
                and a clip or a list of them.
            y: ignored, as is `sample_weight`.
            sequence_length: in place of the preprocessor's.
        """
        x, several = batched(x, ("prompts", "responses"))
        length = (sequence_length or self.sequence_length) + 1
        x["prompts"] = self._with_places(x["prompts"])
        ids, response, mask = self.pack(x, length, self.add_end_token, self.add_start_token)
        inputs = {"token_ids": ids[:, :-1], "padding_mask": mask[:, :-1]}
        inputs |= self._vision(x, inputs["token_ids"]) | self._audio(x, inputs["token_ids"])[0]
        return with_labels(*unbatched((inputs, ids[:, 1:], response[:, 1:]), several))

    def generate_preprocess(self, x: Any, sequence_length: int | None = None) -> Any:
        """To generate from: the backbone's inputs, without an end token."""
        x, several = batched(x)
        x["prompts"] = self._with_places(x["prompts"])
        ids, _, mask = self.pack(x, sequence_length or self.sequence_length, ends=False)
        sound, clips = self._audio(x, ids)
        inputs = {"token_ids": ids, "padding_mask": mask, **self._vision(x, ids), **sound}
        return unbatched({**inputs, **clips}, several)

    def generate_postprocess(self, x: Mapping[str, Any]) -> Any:
        """Text of what was generated, without padding and special tokens."""
        starts = (self.tokenizer.start_of_image_token_id, self.tokenizer.start_of_audio_token_id)
        return detokenized(self.tokenizer, x["token_ids"], x["padding_mask"], starts)

    def _with_places(self, prompts: Any) -> Any:
        """Prompts with a token for each token of an image or a clip."""
        tokens = self.tokenizer
        if self.image_converter is not None:
            start = tokens.start_of_image_token
            places = tokens.image_placeholder * self.num_vision_tokens_per_image
            new = f"\n\n{start}{places}{tokens.end_of_image_token}\n\n"
            prompts = each_text(prompts, lambda one: one.replace(start, new))
        if self.audio_converter is not None:
            begin = tokens.start_of_audio_token
            places = tokens.audio_placeholder * self.num_audio_tokens_per_audio
            sound = f"\n\n{begin}{places}{tokens.end_of_audio_token}\n\n"
            prompts = each_text(prompts, lambda one: one.replace(begin, sound))
        return prompts

    def _vision(self, x: Mapping[str, Any], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images, and where their tokens are."""
        images = x.get("images")
        if self.image_converter is None:
            if images is not None:
                raise ValueError("There are images, but no image_converter.")
            return {}
        most = self.max_images_per_prompt
        if images is None:
            height, width = self.image_converter.image_size or (0, 0)
            pixels = torch.ones(len(ids), 0, height, width, 3)
            mask = torch.zeros_like(ids, dtype=torch.bool)
        else:
            pixels = convert_rows(self.image_converter, images, most)
            mask = ids == self.tokenizer.image_placeholder_id
        indices = places_of(mask, most * self.num_vision_tokens_per_image)
        return {"images": pixels, "vision_indices": indices, "vision_mask": mask}

    def _audio(
        self, x: Mapping[str, Any], ids: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Features of clips and where their tokens are, and the clips themselves."""
        audios, converter, most = x.get("audios"), self.audio_converter, self.max_audios_per_prompt
        if converter is None:
            if audios is not None:
                raise ValueError("There are audios, but no audio_converter.")
            return {}, {}
        if is_none(audios):
            clips = torch.ones(len(ids), 0, 0)
            features = torch.ones(len(ids), 0, 0, converter.feature_size)
            silent = torch.ones(len(ids), 0, 0, dtype=torch.bool)
            mask = torch.zeros_like(ids, dtype=torch.bool)
        else:
            clips = clips_of_rows(audios, converter.sampling_rate, most)
            flat, real = converter(clips.flatten(0, 1), padding="longest")
            features = flat.unflatten(0, clips.shape[:2])
            silent = real.unflatten(0, clips.shape[:2]) == 0
            mask = ids == self.tokenizer.audio_placeholder_id
        indices = places_of(mask, most * self.num_audio_tokens_per_audio)
        found = {
            "input_features": features,
            "input_features_mask": silent,
            "audio_indices": indices,
            "audio_mask": mask,
        }
        return found, {"audios": clips}


def clips_of_rows(rows: Any, rate: int, most: int) -> torch.Tensor:
    """Clips of samples `[batch, most, samples]`, those that are missing silent.

    Args:
        rows: for each sample a clip or several.
        rate: samples per second that there must be.

    Raises:
        ValueError: a sample has more than `most` clips.
    """
    found = []
    for row in rows:
        found.append([] if is_none([row]) else as_clips(row, rate, None)[0])
    fullest = max(map(len, found))
    if fullest > most:
        raise ValueError(f"A sample has {fullest} clips; {most} are the most.")
    longest = max((len(clip) for clips in found for clip in clips), default=0)
    silence = torch.zeros(longest)
    return torch.stack(
        [at_length([*clips, *[silence] * (most - len(clips))], longest) for clips in found]
    )
