"""Qwen3.5: images and videos within prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch

from ..causal_lm import detokenized
from ..images.converter import ImageConverter
from ..images.inputs import is_picture
from ..images.patches import Qwen3_5ImageConverter
from ..images.videos import Qwen3_5VideoConverter
from ..preprocessor import samples
from ..tokenizers.base import Tokenizer
from .texts import MediaPreprocessor, Medium, batched, unbatched

SPECIAL = (
    *("im_start_token", "end_token", "vision_start_token", "vision_end_token"),
    *("image_token", "video_token"),
)


class Qwen3_5CausalLMPreprocessor(MediaPreprocessor):
    """Texts to train on, and prompts in which `<|image_pad|>` and `<|video_pad|>` stand where
    images and videos are.

    With these there are `pixel_values`, the patches of all images and then those of all videos,
    `image_grid_thw` `[images and videos, 3]`, how many there are along each axis,
    `vision_indices`, where their tokens are in all rows one after the other, and `position_ids`
    `[batch, 4, length]`.

    Args:
        tokenizer: the model's.
        image_converter: the model's; without one there are no images.
        video_converter: the model's; without one there are no videos.
        sequence_length: of the rows.
        add_start_token: nothing, since there is none.
        add_end_token: whether a text ends with the end token.
        video_fps: frames per second of videos of which nothing is said.
    """

    backbone = "Qwen3_5Backbone"
    processor = "Qwen3VLProcessor"
    needs: ClassVar = {"video_processor": {"video_processor_type": "Qwen3VLVideoProcessor"}}
    token_keys: ClassVar = {
        f"{name}_id": f"{name}_id"
        for name in ("image_token", "video_token", "vision_start_token", "vision_end_token")
    }
    media: ClassVar = {
        "image": Medium("images", "<|image_pad|>"),
        "video": Medium("videos", "<|video_pad|>"),
    }
    more = ("video_metadata",)
    tokenizer: Any
    image_converter: Qwen3_5ImageConverter | None
    video_converter: Qwen3_5VideoConverter | None

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_converter: ImageConverter | None = None,
        video_converter: Qwen3_5VideoConverter | None = None,
        sequence_length: int = 1024,
        add_start_token: bool = False,
        add_end_token: bool = True,
        video_fps: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, sequence_length, add_start_token, add_end_token, **kwargs)
        self.image_converter = image_converter  # type: ignore[assignment]
        self.video_converter = video_converter
        self.video_fps = video_fps

    def generate_preprocess(self, x: Any, sequence_length: int | None = None) -> Any:
        """To generate from: the backbone's inputs, without an end token.

        Args:
            x: a text or a list of them; or a mapping of `prompts`, `images` or `videos` of all
                prompts in their order, and perhaps `video_metadata`: of each video its
                `frames_indices` in the source and the source's `fps`.
            sequence_length: in place of the preprocessor's.
        """
        x = samples(x)[0]
        if not isinstance(x, Mapping):
            return super().generate_preprocess(x, sequence_length)
        images, videos = x.get("images"), x.get("videos")
        found, several = batched({"prompts": x["prompts"]})
        if images is None and videos is None:
            return super().generate_preprocess(x["prompts"], sequence_length)
        pictures = self._converted(self.image_converter, images, "image")
        films = self._converted(self.video_converter, videos, "video")
        if not pictures and not films:
            return super().generate_preprocess(x["prompts"], sequence_length)
        metadata = list(x.get("video_metadata") or [None] * len(films))
        frames = iter(zip(films, metadata, strict=True))
        seen = iter(pictures)
        rows = [self._tokens(self._with_frames(text, frames), seen) for text in found["prompts"]]
        ids, mask = self.packer(rows, sequence_length=sequence_length, add_end_value=False)
        parts = [*pictures, *films]
        inputs = {
            "token_ids": ids,
            "padding_mask": mask,
            "position_ids": self._positions(ids, pictures, films),
        }
        return {
            **unbatched(inputs, several),
            "pixel_values": torch.cat([part["patches"] for part in parts]),
            "image_grid_thw": torch.stack([part["grid_thw"] for part in parts]),
            "vision_indices": torch.cat(
                [
                    (ids.flatten() == token).nonzero()[:, 0]
                    for token in (self.tokenizer.image_token_id, self.tokenizer.video_token_id)
                ]
            ).int(),
        }

    def prompt_inputs(self, x: Any, sequence_length: int | None = None) -> Any:
        """Without padding behind all rows, which the places of images would count; patches that
        become one token follow each other, as the model was trained. KerasHub's converters give
        them row by row.
        """
        inputs = self.generate_preprocess(x, sequence_length)
        if "pixel_values" in inputs:
            patches, grids = inputs["pixel_values"], inputs["image_grid_thw"]
            inputs["pixel_values"] = _in_squares(patches, grids, self._merge)
        mask = inputs["padding_mask"]
        length = int(mask.sum(-1).max())
        if "vision_indices" in inputs and length < mask.shape[-1]:
            places = inputs["vision_indices"]
            rows, columns = places // mask.shape[-1], places % mask.shape[-1]
            inputs["vision_indices"] = rows * length + columns
            for name in ("token_ids", "padding_mask", "position_ids"):
                inputs[name] = inputs[name][..., :length]
        return inputs

    def generate_postprocess(self, x: Mapping[str, Any]) -> Any:
        """Text of what was generated, without padding and special tokens."""
        ids = torch.as_tensor(x["token_ids"])
        known = [getattr(self.tokenizer, f"{name}_id", None) for name in SPECIAL]
        special = torch.tensor([id for id in known if id is not None], device=ids.device)
        mask = torch.as_tensor(x["padding_mask"]).bool() & ~torch.isin(ids, special)
        return detokenized(self.tokenizer, ids, mask)

    @property
    def _merge(self) -> int:
        """Side of the square of patches that become one token."""
        converter = self.image_converter or self.video_converter
        return 2 if converter is None else converter.spatial_merge_size

    def _converted(self, converter: Any, given: Any, kind: str) -> list[dict[str, torch.Tensor]]:
        """Patches and grid of each image or video."""
        if given is None:
            return []
        if converter is None:
            raise ValueError(f"There are {kind}s, but no {kind}_converter.")
        rank = 3 if kind == "image" else 4
        return [converter(one) for one in _each(given, rank)]

    def _with_frames(self, prompt: str, films: Iterator[tuple[Any, Any]]) -> str:
        """A prompt with a token for each token of its videos, frame after frame, and their times.

        Args:
            films: patches and what is said of them, of all videos to come.
        """
        tokens = self.tokenizer
        before, place, after = (
            tokens.vision_start_token,
            tokens.video_token,
            tokens.vision_end_token,
        )
        first, *others = prompt.split(f"{before}{place}{after}")
        for other in others:
            film, metadata = next(films, (None, None))
            if film is None:
                raise ValueError("There are more places for videos than videos.")
            times, rows, columns = film["grid_thw"].tolist()
            count = (rows // self._merge) * (columns // self._merge)
            for seconds in self._seconds(times, metadata):
                first += f"<{seconds:.1f} seconds>{before}{place * count}{after}"
            first += other
        return first

    def _seconds(self, times: int, metadata: Mapping[str, Any] | None) -> list[float]:
        """When the frames of each patch are, on the average of the first and the last."""
        assert self.video_converter is not None
        depth, fps = self.video_converter.temporal_patch_size, self.video_fps
        places = list(range(times * depth))
        if metadata is not None:
            places, fps = list(metadata["frames_indices"]), metadata["fps"]
        places += places[-1:] * (-len(places) % depth)
        pieces = [places[i : i + depth] for i in range(0, len(places), depth)]
        if len(pieces) < times:
            raise ValueError(f"frames_indices are of {len(pieces)} patches; there are {times}.")
        return [(piece[0] / fps + piece[-1] / fps) / 2 for piece in pieces[:times]]

    def _tokens(self, prompt: str, pictures: Iterator[dict[str, torch.Tensor]]) -> list[int]:
        """Ids of a prompt, in which each image has a token for each of its tokens.

        Args:
            pictures: patches of all images to come.
        """
        tokens = self.tokenizer
        special = {getattr(tokens, name): getattr(tokens, f"{name}_id") for name in SPECIAL}
        ids: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, special))})", prompt):
            if part == tokens.image_token:
                picture = next(pictures, None)
                count = 1 if picture is None else self._count(picture)
                ids += [tokens.image_token_id] * count
            elif part in special:
                ids.append(special[part])
            elif part:
                ids += tokens.tokenize(part)
        return ids

    def _count(self, picture: Mapping[str, torch.Tensor]) -> int:
        """How many tokens an image has."""
        times, rows, columns = picture["grid_thw"].tolist()
        return times * (rows // self._merge) * (columns // self._merge)

    def _positions(
        self,
        ids: torch.Tensor,
        pictures: Sequence[Mapping[str, torch.Tensor]],
        films: Sequence[Mapping[str, torch.Tensor]],
    ) -> torch.Tensor:
        """Positions `[batch, 4, length]`: of the text, of time, rows and columns.

        What is seen at one time is at one position; rows and columns count from it.
        """
        tokens = self.tokenizer
        grids = {
            tokens.image_token_id: iter([one["grid_thw"].tolist() for one in pictures]),
            # A video has a run of tokens for each of its times.
            tokens.video_token_id: iter(
                [
                    [1, rows, columns]
                    for one in films
                    for times, rows, columns in [one["grid_thw"].tolist()]
                    for _ in range(times)
                ]
            ),
        }
        return torch.stack([self._row(row.tolist(), grids) for row in ids])

    def _row(self, ids: Sequence[int], grids: Mapping[int, Iterator[list[int]]]) -> torch.Tensor:
        """Positions `[4, length]` of a row."""
        columns: list[torch.Tensor] = []
        at, i = 0, 0
        while i < len(ids):
            grid = next(grids[ids[i]], None) if ids[i] in grids else None
            if grid is None:
                columns.append(torch.full((4, 1), at))
                at, i = at + 1, i + 1
                continue
            times, height, width = grid[0], grid[1] // self._merge, grid[2] // self._merge
            order = torch.arange(min(times * height * width, len(ids) - i))
            time = torch.zeros_like(order)
            # As transformers has it, also where an image has several times.
            places = [time, time, order // (width * times), order % width]
            columns.append(torch.stack(places) + at)
            at, i = at + max(height, width), i + len(order)
        return torch.cat(columns, 1).int()


class Qwen3_5MoeCausalLMPreprocessor(Qwen3_5CausalLMPreprocessor):
    """As `Qwen3_5CausalLMPreprocessor`."""

    backbone = "Qwen3_5MoeBackbone"


def _in_squares(patches: torch.Tensor, grids: torch.Tensor, side: int) -> torch.Tensor:
    """Patches of images, row by row, as those of one square of `side²` after those of another.

    Args:
        patches: `[patches, …]`.
        grids: frames, rows and columns of each image, `[images, 3]`.
    """
    found = []
    for (times, rows, columns), piece in zip(
        grids.tolist(), patches.split(grids.prod(1).tolist()), strict=True
    ):
        squares = piece.unflatten(0, (times, rows // side, side, columns // side, side))
        found.append(squares.transpose(2, 3).flatten(0, 4))
    return torch.cat(found)


def _each(given: Any, rank: int) -> list[Any]:
    """Images or videos one by one: of one, of a batch, or of a list of these."""
    if is_picture(given) or getattr(given, "ndim", 0) == rank:
        return [given]
    return [
        one for item in given for one in (_each(item, rank) if _is_batch(item, rank) else [item])
    ]


def _is_batch(item: Any, rank: int) -> bool:
    return isinstance(item, (list, tuple)) or getattr(item, "ndim", rank) > rank
