"""The image converters of families: KerasHub's names, and what some of them fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .._checkpoint import Checkpoint, differs
from .converter import ImageConverter


class BASNetImageConverter(ImageConverter):
    """Of `BASNetBackbone`."""


class CLIPImageConverter(ImageConverter):
    """Of `CLIPBackbone`."""


class CSPNetImageConverter(ImageConverter):
    """Of `CSPNetBackbone`."""


class DFineImageConverter(ImageConverter):
    """Of `DFineBackbone`."""

    processor = "RTDetrImageProcessor"


class DINOV2ImageConverter(ImageConverter):
    """Of `DINOV2Backbone`."""

    processor = "BitImageProcessor"


class DINOV3ImageConverter(ImageConverter):
    """Of `DINOV3Backbone`."""

    processor = "DINOv3ViTImageProcessor"


class DeepLabV3ImageConverter(ImageConverter):
    """Of `DeepLabV3Backbone`."""


class DeiTImageConverter(ImageConverter):
    """Of `DeiTBackbone`."""

    processor = "DeiTImageProcessor"


class DenseNetImageConverter(ImageConverter):
    """Of `DenseNetBackbone`."""


class DepthAnythingImageConverter(ImageConverter):
    """Of `DepthAnythingBackbone`."""

    processor = "DPTImageProcessor"


class EfficientNetImageConverter(ImageConverter):
    """Of `EfficientNetBackbone`."""


class HGNetV2ImageConverter(ImageConverter):
    """Of `HGNetV2Backbone`."""


class MetaCLIP2ImageConverter(ImageConverter):
    """Of `MetaCLIP2Backbone`."""


class MiTImageConverter(ImageConverter):
    """Of `MiTBackbone`."""

    processor = "SegformerImageProcessor"


class MobileNetImageConverter(ImageConverter):
    """Of `MobileNetBackbone`."""


class MobileNetV5ImageConverter(ImageConverter):
    """Of `MobileNetV5Backbone`."""


class PARSeqImageConverter(ImageConverter):
    """Of `PARSeqBackbone`."""


class PaliGemmaImageConverter(ImageConverter):
    """Of `PaliGemmaBackbone`."""

    processor = "SiglipImageProcessor"


class ResNetImageConverter(ImageConverter):
    """Of `ResNetBackbone`."""

    processor = "ConvNextImageProcessor"


class RetinaNetImageConverter(ImageConverter):
    """Of `RetinaNetBackbone`."""


class SAMImageConverter(ImageConverter):
    """Of `SAMBackbone`."""

    processor = "SamImageProcessor"


class SegFormerImageConverter(ImageConverter):
    """Of `SegFormerBackbone`."""

    processor = "SegformerImageProcessor"


class SigLIPImageConverter(ImageConverter):
    """Of `SigLIPBackbone`."""

    processor = "SiglipImageProcessor"


class SwinTransformerImageConverter(ImageConverter):
    """Of `SwinTransformerBackbone`."""

    processor = "ViTImageProcessor"


class VGGImageConverter(ImageConverter):
    """Of `VGGBackbone`."""


class ViTImageConverter(ImageConverter):
    """Of `ViTBackbone`."""

    processor = "ViTImageProcessor"


class VideoPrismImageConverter(ImageConverter):
    """Of `VideoPrismBackbone`."""


class XceptionImageConverter(ImageConverter):
    """Of `XceptionBackbone`."""


class SAM3ImageConverter(ImageConverter):
    """Of `SAM3PromptableConceptBackbone`."""

    backbone: ClassVar[str | None] = "SAM3PromptableConceptBackbone"
    processor = "Sam3ImageProcessor"


class Gemma3ImageConverter(ImageConverter):
    """Of `Gemma3Backbone`; in float32."""

    fixed_dtype = "float32"
    processor = "Gemma3ImageProcessor"


class Gemma3nImageConverter(ImageConverter):
    """Of `Gemma3nBackbone`; in float32."""

    fixed_dtype = "float32"
    processor = "SiglipImageProcessor"


class T5Gemma2ImageConverter(ImageConverter):
    """Of `T5Gemma2Backbone`; in float32."""

    fixed_dtype = "float32"
    processor = "Gemma3ImageProcessor"


class BLIP2ImageConverter(ImageConverter):
    """Of `BLIP2Backbone`: EVA-CLIP's mean and deviation are fixed; in float32.

    Args:
        image_size: height and width of what it returns; `None` leaves them as they are.
        crop_to_aspect_ratio: whether what is too wide or too high is cut off.
        interpolation: `nearest`, `bilinear` or `bicubic`.
        antialias: whether bilinear and bicubic look at all pixels when they shrink.
        kwargs: other arguments of `ImageConverter`.
    """

    unsaved = ("scale", "offset")
    fixed_dtype = "float32"
    processor = "BlipImageProcessor"
    # 1 / (255 · deviation), and -mean / deviation.
    SCALE: ClassVar[tuple[float, ...]] = (
        *(0.014598426619242919, 0.015007768493717055, 0.014220065717024086),
    )
    OFFSET: ClassVar[tuple[float, ...]] = (
        *(-1.79226253374815, -1.7520971281645974, -1.4802197687835659),
    )

    def __init__(
        self,
        image_size: Sequence[int] | None = (224, 224),
        crop_to_aspect_ratio: bool = False,
        interpolation: str = "bicubic",
        antialias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            image_size=image_size,
            scale=self.SCALE,
            offset=self.OFFSET,
            crop_to_aspect_ratio=crop_to_aspect_ratio,
            interpolation=interpolation,
            antialias=antialias,
            **kwargs,
        )

    @classmethod
    def arguments_of(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        found = super().arguments_of(checkpoint)
        fixed = {"scale": cls.SCALE, "offset": cls.OFFSET}
        notes = [
            f"image_mean and image_std make {name}={found[name]}, which is fixed here"
            for name, value in fixed.items()
            if not np.allclose(np.array(found[name], float), value, rtol=1e-5)
        ]
        differs(f"What {checkpoint.source.handle} says of pixels", notes)
        return {name: value for name, value in found.items() if name not in fixed}
