"""Gemma 4: images, a video or a clip within prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch

from ..audio.base import at_length
from ..audio.gemma4 import Gemma4AudioConverter
from ..audio.inputs import as_clips
from ..causal_lm import detokenized
from ..images.patches import Gemma4ImageConverter
from ..images.videos import Gemma4VideoConverter
from ..preprocessor import with_labels
from ..tokenizers.base import Tokenizer
from .gemma3 import images_of_sample, places_of
from .texts import Medium, PromptsPreprocessor, batched, is_none, unbatched

IMAGE, SOUND, VIDEO = "<|image|>", "<|audio|>", "<|video|>"
# What images and sound are between; frames are images.
IMAGE_MARKS, SOUND_MARKS = ("<|image>", "<image|>"), ("<|audio>", "<audio|>")
# Frames of a spectrogram that become one token.
FRAMES = 4


class Gemma4CausalLMPreprocessor(PromptsPreprocessor):
    """Prompts, in which `<|image|>`, `<|video|>` and `<|audio|>` stand where images, a video and a
    clip are, and responses.

    Without converters it is for text alone. With them there are `pixel_values` `[batch, images,
    patches, pixels]` and `pixel_position_ids` of images, or of a video's frames; `vision_indices`,
    where their tokens are, filled up with 0, and `vision_mask`; `audio_mel` `[batch, 1, frames,
    mels]` and `audio_mel_mask`, `audio_indices` and `audio_mask`; and `position_ids`.

    Args:
        tokenizer: the model's.
        image_converter: the model's; without one there are no images.
        audio_converter: the model's; without one there is no sound.
        video_converter: the model's; without one there are no videos.
        sequence_length: of the rows.
        add_start_token: whether a prompt begins with the start token.
        add_end_token: whether a response ends with the end token.
        max_images_per_prompt: the most that a sample may have.
        num_vision_tokens_per_image: of an image.
        max_audio_clips_per_prompt: nothing: a sample has one clip at most.
        num_audio_tokens_per_clip: nothing: a clip has a token for each four of its frames.
        audio_input_feat_size: filters of the model's spectrograms, where there is no sound.
        num_frames_per_video: as many as `video_converter` takes of each.
        num_vision_tokens_per_frame: of the frames of a video that is not there.
        video_fps: frames per second of videos of which nothing is said.
    """

    backbone = "Gemma4Backbone"
    processor = "Gemma4Processor"
    needs: ClassVar = {
        "feature_extractor": {"feature_extractor_type": "Gemma4AudioFeatureExtractor"},
        "video_processor": {"video_processor_type": "Gemma4VideoProcessor"},
    }
    token_keys: ClassVar = {
        **{f"{kind}_token_id": f"{kind}_placeholder_id" for kind in ("image", "audio", "video")},
        "boi_token_id": "start_of_image_token_id",
        "eoi_token_id": "end_of_image_token_id",
        "boa_token_id": "start_of_audio_token_id",
        "eoa_token_index": "end_of_audio_token_id",
    }
    media: ClassVar = {
        "image": Medium("images", IMAGE),
        "audio": Medium("audio", SOUND, several=False),
        "video": Medium("videos", VIDEO, several=False),
    }
    more = (
        *("pixel_values", "pixel_position_ids", "audio_mel", "audio_mel_mask"),
        "video_metadata",
    )
    tokenizer: Any
    image_converter: Gemma4ImageConverter | None
    audio_converter: Gemma4AudioConverter | None
    video_converter: Gemma4VideoConverter | None

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_converter: Gemma4ImageConverter | None = None,
        audio_converter: Gemma4AudioConverter | None = None,
        video_converter: Gemma4VideoConverter | None = None,
        sequence_length: int = 1024,
        add_start_token: bool = True,
        add_end_token: bool = True,
        max_images_per_prompt: int = 2,
        num_vision_tokens_per_image: int = 280,
        max_audio_clips_per_prompt: int = 1,
        num_audio_tokens_per_clip: int = 750,
        audio_input_feat_size: int = 128,
        num_frames_per_video: int = 32,
        num_vision_tokens_per_frame: int = 70,
        video_fps: float = 24.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, sequence_length, add_start_token, add_end_token, **kwargs)
        most = max_images_per_prompt * num_vision_tokens_per_image
        if image_converter is not None and sequence_length <= most:
            raise ValueError(
                f"sequence_length is {sequence_length}; {max_images_per_prompt} images of "
                f"{num_vision_tokens_per_image} tokens need more than {most}."
            )
        self.image_converter = image_converter
        self.audio_converter = audio_converter
        self.video_converter = video_converter
        self.max_images_per_prompt = max_images_per_prompt
        self.num_vision_tokens_per_image = num_vision_tokens_per_image
        self.max_audio_clips_per_prompt = max_audio_clips_per_prompt
        self.num_audio_tokens_per_clip = num_audio_tokens_per_clip
        self.audio_input_feat_size = audio_input_feat_size
        self.num_frames_per_video = num_frames_per_video
        self.num_vision_tokens_per_frame = num_vision_tokens_per_frame
        self.video_fps = video_fps

    def get_config(self) -> dict[str, Any]:
        # KerasHub writes those that are not there, too.
        names = ("image_converter", "audio_converter", "video_converter")
        return {**dict.fromkeys(names), **super().get_config()}

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
            x: mapping of `prompts`, `responses` and perhaps `images`, `videos` and `audio`, of one
                or several samples; or a list of mappings. A sample has an image or a list of
                them, a video, and a clip; `video_metadata` says the `frames_indices` in the source
                of each video and the source's `fps`. In place of images there may be their
                `pixel_values` and `pixel_position_ids`, of sound `audio_mel` and `audio_mel_mask`
                and then as many `<|audio|>` as it is to have tokens.
            y: ignored, as is `sample_weight`.
            sequence_length: in place of the preprocessor's.
        """
        x, several = _batched(x, ("prompts", "responses"))
        length = (sequence_length or self.sequence_length) + 1
        pixels, sound = self._pixels(x), self._sound(x)
        x["prompts"] = self._with_places(x, pixels, sound)
        ids, response, mask = self.pack(x, length, self.add_end_token, self.add_start_token)
        if x.get("audio") is not None and sound:
            frames = FRAMES * int((ids == self._sound_id).sum(1).max())
            sound = {key: one[:, :, :frames] for key, one in sound.items()}
        inputs = self._inputs(ids[:, :-1], mask[:, :-1], pixels, sound, self._seen(x))
        if self._is_for_text:
            inputs["position_ids"] = _positions(inputs["token_ids"])
        return with_labels(*unbatched((inputs, ids[:, 1:], response[:, 1:]), several))

    def generate_preprocess(self, x: Any, sequence_length: int | None = None) -> Any:
        """To generate from: the backbone's inputs, without an end token."""
        x, several = _batched(x)
        pixels, sound = self._pixels(x), self._sound(x)
        x["prompts"] = self._with_places(x, pixels, sound)
        ids, _, mask = self.pack(x, sequence_length or self.sequence_length, ends=False)
        return unbatched(self._inputs(ids, mask, pixels, sound, self._seen(x)), several)

    def prompt_inputs(self, x: Any, sequence_length: int | None = None) -> Any:
        """An image has as many tokens as squares of patches, as the model was trained; KerasHub
        gives every image the same number.
        """
        x, several = _batched(x)
        if x.get("images") is None or self.image_converter is None:
            x = x if several else {k: None if v is None else v[0] for k, v in x.items()}
            return self.generate_preprocess(x, sequence_length)
        pixels = self._pixels(x)
        square = self.image_converter.pooling_kernel_size**2
        counts = ((pixels["pixel_position_ids"][..., 0] >= 0).sum(-1) // square).tolist()
        prompts = [_with_images(*pair) for pair in zip(x["prompts"], counts, strict=True)]
        given = {**x, **pixels, "images": None, "prompts": prompts}
        sound = self._sound(given)
        given["prompts"] = self._with_sound_places(given, sound)
        ids, _, mask = self.pack(given, sequence_length or self.sequence_length, ends=False)
        inputs = self._inputs(ids, mask, pixels, sound, self._seen(x))
        tokens = pixels["pixel_values"].shape[2] // square
        inputs["vision_indices"] = _places_of_images(inputs["vision_mask"], counts, tokens)
        return unbatched(inputs, several)

    def generate_postprocess(self, x: Mapping[str, Any]) -> Any:
        """Text of what was generated, without padding and special tokens."""
        ids, mask = torch.as_tensor(x["token_ids"]), torch.as_tensor(x["padding_mask"]).bool()
        if self.audio_converter is not None:
            for token in (SOUND, *SOUND_MARKS):
                mask = mask & (ids != self.tokenizer.token_to_id(token))
        return detokenized(self.tokenizer, ids, mask, (self.tokenizer.start_of_image_token_id,))

    @property
    def _is_for_text(self) -> bool:
        return not (self.image_converter or self.audio_converter or self.video_converter)

    @property
    def _sound_id(self) -> int:
        """Of the token of sound, which the vocabulary has though the tokenizer may not say so."""
        found: int = self.tokenizer.audio_placeholder_id
        return self.tokenizer.token_to_id(SOUND) if found == -1 else found

    def _seen(self, x: Mapping[str, Any]) -> int:
        """Id of the tokens of images, or of a video's frames where there are no images."""
        is_video = x.get("images") is None and x.get("videos") is not None
        kind = "video" if is_video else "image"
        found: int = getattr(self.tokenizer, f"{kind}_placeholder_id")
        return found

    def _pixels(self, x: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Patches of the images, or of a video's frames, and their places."""
        images, videos = x.get("images"), x.get("videos")
        kinds = {"image": images, "video": videos, "audio": x.get("audio")}
        for kind, given in kinds.items():
            if given is not None and getattr(self, f"{kind}_converter") is None:
                raise ValueError(f"There is {kind}, but no {kind}_converter.")
        if images is not None and self.image_converter is not None:
            return self._patches(self.image_converter, images)
        if videos is not None and self.video_converter is not None:
            found = [self.video_converter([video])[0] for video in videos]
            return {key: torch.cat([one[key] for one in found]) for key in found[0]}
        return {} if self._is_for_text else _computed(x, ("pixel_values", "pixel_position_ids"))

    def _patches(self, converter: Gemma4ImageConverter, rows: Any) -> dict[str, torch.Tensor]:
        """Of images `[batch, images, patches, …]`; where samples have different numbers of them,
        of as many as there may be, the missing ones black.
        """
        samples = [images_of_sample(row) for row in rows]
        counts = {len(images) for images in samples}
        most = self.max_images_per_prompt if len(counts) > 1 else max(counts)
        if max(counts) > self.max_images_per_prompt:
            raise ValueError(
                f"A sample has {max(counts)} images; {self.max_images_per_prompt} are the most."
            )
        black = torch.zeros_like(next(image for images in samples for image in images))
        found = [
            converter(image) for images in samples for image in [*images, *[black] * most][:most]
        ]
        return {
            key: torch.stack([one[key] for one in found]).unflatten(0, (len(samples), most))
            for key in found[0]
        }

    def _sound(self, x: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Spectrograms of clips, `[batch, 1, frames, mels]`, and which of the frames are real."""
        audio, converter = x.get("audio"), self.audio_converter
        if audio is None:
            made = {} if converter is None else _computed(x, ("audio_mel", "audio_mel_mask"))
            frames = FRAMES * max(prompt.count(SOUND) for prompt in x["prompts"])
            return {key: one[:, :, :frames] for key, one in made.items()}
        if converter is None:
            return {}
        clips = [_clip(one, converter.sampling_rate) for one in audio]
        mels = converter(at_length(clips, max(map(len, clips))))[:, None]
        frames = torch.tensor([len(clip) // converter.stride for clip in clips], device=mels.device)
        mask = torch.arange(mels.shape[2], device=mels.device) < frames[:, None, None]
        return {"audio_mel": mels, "audio_mel_mask": mask.int()}

    def _with_places(
        self,
        x: Mapping[str, Any],
        pixels: Mapping[str, torch.Tensor],
        sound: Mapping[str, torch.Tensor],
    ) -> list[str]:
        """Prompts with a token for each token of images, frames and clips."""
        prompts = list(x["prompts"])
        if self.image_converter is not None:
            image = (IMAGE * self.num_vision_tokens_per_image).join(IMAGE_MARKS)
            prompts = [prompt.replace(IMAGE, image) for prompt in prompts]
        if self.video_converter is not None:
            metadata = x.get("video_metadata") or [None] * len(prompts)
            count = self.num_vision_tokens_per_frame
            if x.get("videos") is not None and pixels:
                real = (pixels["pixel_position_ids"][0, 0, :, 0] >= 0).sum()
                count = int(real) // self.video_converter.pooling_kernel_size**2
            prompts = [
                prompt.replace(VIDEO, self._frames(count, said))
                for prompt, said in zip(prompts, metadata, strict=True)
            ]
        return self._with_sound_places({**x, "prompts": prompts}, sound)

    def _with_sound_places(
        self, x: Mapping[str, Any], sound: Mapping[str, torch.Tensor]
    ) -> list[str]:
        """Prompts with a token for each token of their clips."""
        if not sound:
            return list(x["prompts"])
        counts = (sound["audio_mel_mask"].sum((1, 2)) + FRAMES - 1) // FRAMES
        change = _with_sound if x.get("audio") is not None else _with_most
        return [*map(change, x["prompts"], counts.tolist())]

    def _frames(self, count: int, said: Mapping[str, Any] | None) -> str:
        """The tokens of a video's frames, each behind its time."""
        places: Sequence[int] = range(self.num_frames_per_video)
        fps = self.video_fps
        if said is not None:
            places, fps = said["frames_indices"], said.get("fps", fps)
        times = [divmod(int(place / fps), 60) for place in places]
        frame = (VIDEO * count).join(IMAGE_MARKS)
        return " ".join(f"{minutes:02d}:{seconds:02d} {frame}" for minutes, seconds in times)

    def _inputs(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        pixels: dict[str, torch.Tensor],
        sound: dict[str, torch.Tensor],
        seen: int,
    ) -> dict[str, torch.Tensor]:
        """All inputs of the backbone.

        Args:
            seen: id of the tokens that stand for what there is to be seen.
        """
        inputs = {"token_ids": ids, "padding_mask": mask}
        if self._is_for_text:
            return inputs
        rows = len(ids)
        vision = ids == seen if pixels else torch.zeros_like(ids, dtype=torch.bool)
        inputs |= pixels or self._no_pixels(rows)
        inputs["vision_mask"] = vision
        inputs["vision_indices"] = places_of(vision, self._capacity(vision))
        inputs["position_ids"] = _positions(ids)
        if sound:
            heard = ids == self._sound_id
            inputs |= sound
            inputs["audio_mask"] = heard
            inputs["audio_indices"] = places_of(heard, int(heard.sum(1).max()))
        elif self.audio_input_feat_size > 0:
            inputs["audio_mel"] = torch.zeros(rows, 0, 1, self.audio_input_feat_size)
            inputs["audio_mel_mask"] = torch.zeros(rows, 0, 1, dtype=torch.int32)
            inputs["audio_mask"] = torch.zeros_like(ids, dtype=torch.bool)
            inputs["audio_indices"] = torch.zeros(rows, 0, dtype=torch.int32)
        return inputs

    def _no_pixels(self, rows: int) -> dict[str, torch.Tensor]:
        """What a model with images takes where there are none."""
        patches, size = 1, 48
        if self.image_converter is not None:
            patches, size = 0, 3 * self.image_converter.patch_size**2
        return {
            "pixel_values": torch.zeros(rows, 0, patches, size),
            "pixel_position_ids": torch.zeros(rows, 0, patches, 2, dtype=torch.int32),
        }

    def _capacity(self, vision: torch.Tensor) -> int:
        """For how many tokens of images there is room in every batch."""
        if self.video_converter is not None:
            return self.num_frames_per_video * self.video_converter.max_soft_tokens
        if self.image_converter is not None:
            return self.max_images_per_prompt * self.num_vision_tokens_per_image
        return int(vision.sum(1).max())


def _batched(x: Any, needed: tuple[str, ...] = ("prompts",)) -> tuple[dict[str, Any], bool]:
    """As `batched`, without images or sound that no sample has."""
    found, several = batched(x, needed)
    return {name: None if is_none(value) else value for name, value in found.items()}, several


def _clip(sound: Any, rate: int) -> torch.Tensor:
    """The clip of a sample, without a second if there is none.

    Raises:
        ValueError: there are several.
    """
    if is_none([sound]):
        return torch.zeros(0)
    clips, _ = as_clips(sound, rate, None)
    if len(clips) > 1:
        raise ValueError(f"A sample has {len(clips)} clips; one is the most.")
    return clips[0]


def _positions(ids: torch.Tensor) -> torch.Tensor:
    return torch.arange(ids.shape[1], dtype=torch.int32).expand(len(ids), -1)


def _computed(x: Mapping[str, Any], names: tuple[str, str]) -> dict[str, torch.Tensor]:
    """What a converter has made already, of a batch."""
    given = {name: x[name] for name in names if x.get(name) is not None}
    if given and len(given) < len(names):
        raise ValueError(f"{' and '.join(names)} go together; there is only {next(iter(given))}.")
    return {
        name: torch.stack([torch.as_tensor(row) for row in rows]) for name, rows in given.items()
    }


def _with_images(prompt: str, counts: Sequence[int]) -> str:
    """With so many tokens for each image."""
    first, *others = prompt.split(IMAGE)
    if len(others) > len(counts):
        raise ValueError(f"A prompt has {len(others)} places for {len(counts)} images.")
    return first + "".join(
        (IMAGE * count).join(IMAGE_MARKS) + other for count, other in zip(counts, others)
    )


def _places_of_images(
    mask: torch.Tensor, counts: Sequence[Sequence[int]], tokens: int
) -> torch.Tensor:
    """Where in each row of `mask` an image's tokens are, `[batch, images · tokens]`; 0 for those of
    `tokens` that it does not have.
    """
    found = torch.zeros(len(mask), len(counts[0]) * tokens, dtype=torch.int32)
    for row, real, numbers in zip(found, mask, counts):
        places = real.nonzero()[:, 0].int()
        for i, place in enumerate(places.split([*_until(numbers, len(places))])):
            row[i * tokens : i * tokens + len(place)] = place
    return found


def _until(counts: Sequence[int], total: int) -> Iterator[int]:
    """Those of the counts that there is room for."""
    for count in counts:
        yield min(count, total)
        total -= min(count, total)


def _with_sound(prompt: str, count: int) -> str:
    return prompt.replace(SOUND, (SOUND * count).join(SOUND_MARKS))


def _with_most(prompt: str, count: int) -> str:
    """With no more tokens of sound than there are."""
    first, *rest = prompt.split(SOUND)
    kept = [SOUND * (i < count) + text for i, text in enumerate(rest)]
    return "".join([first, *kept])
