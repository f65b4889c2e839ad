"""Videos: their frames as images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from .._arrays import as_tensor
from .._checkpoint import Checkpoint, setting
from .._converter import Converter
from . import patches
from .converter import ImageConverter
from .foreign import HALF
from .inputs import checked
from .patches import Gemma4ImageConverter, check_sizes, cut_into_patches
from .resizing import resize

QWEN = {**patches.QWEN, "patch_size": 16, **HALF} | {
    "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 32 * 32 * 768}
}


class VideoConverter(Converter):
    """Resizes and scales the frames of videos `[batch, frames, height, width, channels]`.

    A list of videos `[frames, height, width, channels]` becomes a list.

    Args:
        image_size: height and width of what it returns; `None` leaves them as they are.
        scale: a number, or one for each channel.
        offset: a number, or one for each channel.
        kwargs: `name`, `trainable`, `dtype`.
    """

    kind: ClassVar[str] = "video_converter"

    def __init__(
        self,
        image_size: Sequence[int] | None = None,
        scale: float | Sequence[float] | None = None,
        offset: float | Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.scale = scale
        self.offset = offset
        self.frame_converter = ImageConverter(image_size, scale, offset, dtype=self.dtype)

    def __call__(self, inputs: Any) -> Any:
        if isinstance(inputs, (list, tuple)):
            return [self.frame_converter(video) for video in inputs]
        return self.frame_converter(as_videos(inputs, 5))


class Gemma4VideoConverter(VideoConverter):
    """Frames, some of each video, cut into patches as by `Gemma4ImageConverter`.

    Videos `[batch, frames, height, width, channels]` → `pixel_values` `[batch, num_frames, patches,
    3 · patch_size²]` and `pixel_position_ids`; of a list of videos a list, of batches of one.

    Args:
        patch_size: side of a patch.
        max_soft_tokens: of a frame.
        pooling_kernel_size: side of the square of patches that become one token.
        num_frames: as many frames are taken, evenly spread.
        kwargs: other arguments of `VideoConverter`; `image_size` has no effect.
    """

    def __init__(
        self,
        patch_size: int = 16,
        max_soft_tokens: int = 70,
        pooling_kernel_size: int = 3,
        num_frames: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(1, num_frames=num_frames)
        self.patch_size = patch_size
        self.max_soft_tokens = max_soft_tokens
        self.pooling_kernel_size = pooling_kernel_size
        self.num_frames = num_frames
        self.frame_converter = Gemma4ImageConverter(
            patch_size, max_soft_tokens, pooling_kernel_size, scale=self.scale, offset=self.offset
        )

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        kind = "video_converter"
        found = patches.gemma4_arguments(checkpoint, kind, "Gemma4VideoProcessor", 70)
        frames = setting(checkpoint.settings(kind), "num_frames", int)
        return found if frames is None else {**found, "num_frames": frames}

    def to_transformers(self) -> dict[str, Any]:
        return {
            "video_processor_type": "Gemma4VideoProcessor",
            **patches.gemma4_settings(self),
            "do_sample_frames": True,
            "num_frames": self.num_frames,
        }

    def __call__(self, inputs: Any) -> Any:
        if isinstance(inputs, (list, tuple)):
            return [self(as_videos(video, 4)[None]) for video in inputs]
        videos = as_videos(inputs, 5)
        last = videos.shape[1] - 1
        places = torch.linspace(0, last, self.num_frames, device=videos.device).int()
        frames = videos[:, places].flatten(0, 1)
        found: Mapping[str, torch.Tensor] = self.frame_converter(frames)
        return {key: one.unflatten(0, (-1, self.num_frames)) for key, one in found.items()}


class EmbeddingGemma2VideoConverter(Gemma4VideoConverter):
    """As `Gemma4VideoConverter`, of videos that may be shorter than `max_frames`: lists of
    `pixel_values` `[frames, patches, 3 · patch_size²]` and `pixel_position_ids`.

    Args:
        patch_size: side of a patch.
        max_soft_tokens: of a frame.
        pooling_kernel_size: side of the square of patches that become one token.
        max_frames: of longer videos so many are taken, evenly spread.
        kwargs: other arguments of `VideoConverter`; `image_size` has no effect.
    """

    def __init__(
        self,
        patch_size: int = 16,
        max_soft_tokens: int = 70,
        pooling_kernel_size: int = 3,
        max_frames: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(patch_size, max_soft_tokens, pooling_kernel_size, max_frames, **kwargs)
        self.max_frames = max_frames

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        found = super().arguments_of(checkpoint)
        frames = found.pop("num_frames", None)
        return found if frames is None else {**found, "max_frames": frames}

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["num_frames"]
        return config

    def __call__(self, inputs: Any) -> Any:
        single = not isinstance(inputs, (list, tuple)) and getattr(inputs, "ndim", 5) == 4
        rows = [self._frames(video) for video in ([inputs] if single else inputs)]
        return {key: [row[key] for row in rows] for key in ("pixel_values", "pixel_position_ids")}

    def _frames(self, video: Any) -> Mapping[str, torch.Tensor]:
        frames = as_videos(video, 4)
        count = min(len(frames), self.max_frames)
        places = torch.arange(count, device=frames.device) * (len(frames) - 1) // max(count - 1, 1)
        found: Mapping[str, torch.Tensor] = self.frame_converter(frames[places])
        return found


class Qwen3_5VideoConverter(VideoConverter):
    """A video resized to a number of pixels within bounds, and cut into patches.

    `[frames, height, width, channels]` → `patches` `[n, temporal_patch_size, patch_size,
    patch_size, channels]` and `grid_thw` `[3]`. The last frame is repeated until the patches are
    whole.

    Args:
        patch_size: side of a patch.
        temporal_patch_size: frames of a patch.
        spatial_merge_size: side of the square of patches that become one token.
        min_pixels: of all resized frames.
        max_pixels: of all resized frames.
        interpolation: `nearest`, `bilinear` or `bicubic`.
        antialias: whether bilinear and bicubic look at all pixels when they shrink.
        kwargs: other arguments of `VideoConverter`; `image_size` has no effect.
    """

    def __init__(
        self,
        patch_size: int = 16,
        temporal_patch_size: int = 2,
        spatial_merge_size: int = 2,
        min_pixels: int = 65536,
        max_pixels: int = 16777216,
        interpolation: str = "bicubic",
        antialias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(
            max(min_pixels, max_pixels),
            patch_size=patch_size,
            temporal_patch_size=temporal_patch_size,
            spatial_merge_size=spatial_merge_size,
        )
        self.patch_size = patch_size
        self.temporal_patch_size = temporal_patch_size
        self.spatial_merge_size = spatial_merge_size
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.interpolation = interpolation
        self.antialias = antialias
        self.frame_converter = ImageConverter(
            None, self.scale, self.offset, interpolation=interpolation
        )

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        known = {"Qwen3VLVideoProcessor": QWEN}
        return patches.qwen_arguments(checkpoint, "video_converter", known)

    def to_transformers(self) -> dict[str, Any]:
        return {"video_processor_type": "Qwen3VLVideoProcessor", **patches.qwen_settings(self)}

    def __call__(self, inputs: Any) -> Any:
        video = as_videos(inputs, 4)
        first = video.movedim(-1, -3).float()
        resized = resize(first, self._size(*video.shape[:3]), self.interpolation, self.antialias)
        frames = self.frame_converter.scaled(resized.clamp_(0, 255).movedim(-3, -1))
        missing = -len(frames) % self.temporal_patch_size
        frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
        return cut_into_patches(frames, self.patch_size, self.temporal_patch_size)

    def _size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Sides, multiples of a token's, with a number of pixels within bounds, or nearly so."""
        side = self.patch_size * self.spatial_merge_size
        depth = math.ceil(frames / self.temporal_patch_size) * self.temporal_patch_size
        rows, columns = (max(round(length / side), 1) for length in (height, width))
        pixels = depth * rows * columns * side**2
        if pixels > self.max_pixels:
            factor = math.sqrt((frames * height * width) / self.max_pixels)
            rows, columns = (max(math.floor(n / factor / side), 1) for n in (height, width))
        elif pixels < self.min_pixels:
            factor = math.sqrt(self.min_pixels / (frames * height * width))
            rows, columns = (math.ceil(n * factor / side) for n in (height, width))
        return rows * side, columns * side


class Qwen3_5MoeVideoConverter(Qwen3_5VideoConverter):
    """Of `Qwen3_5MoeBackbone`."""


def as_videos(value: Any, axes: int) -> torch.Tensor:
    """Videos with so many axes.

    Raises:
        ValueError: there are others.
    """
    videos = checked(as_tensor(value, "The video"), "channels_last")
    if videos.ndim != axes:
        names = ["batch", "frames", "height", "width", "channels"][-axes:]
        raise ValueError(f"Videos are [{', '.join(names)}], not of shape {tuple(videos.shape)}.")
    return videos
