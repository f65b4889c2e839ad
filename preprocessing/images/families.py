"""The image converters of families: KerasHub's names, and what some of them fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from .converter import ImageConverter


class BASNetImageConverter(ImageConverter):
    """Of `BASNetBackbone`."""


class CLIPImageConverter(ImageConverter):
    """Of `CLIPBackbone`."""


class CSPNetImageConverter(ImageConverter):
    """Of `CSPNetBackbone`."""


class DFineImageConverter(ImageConverter):
    """Of `DFineBackbone`."""


class DINOV2ImageConverter(ImageConverter):
    """Of `DINOV2Backbone`."""


class DINOV3ImageConverter(ImageConverter):
    """Of `DINOV3Backbone`."""


class DeepLabV3ImageConverter(ImageConverter):
    """Of `DeepLabV3Backbone`."""


class DeiTImageConverter(ImageConverter):
    """Of `DeiTBackbone`."""


class DenseNetImageConverter(ImageConverter):
    """Of `DenseNetBackbone`."""


class DepthAnythingImageConverter(ImageConverter):
    """Of `DepthAnythingBackbone`."""


class EfficientNetImageConverter(ImageConverter):
    """Of `EfficientNetBackbone`."""


class HGNetV2ImageConverter(ImageConverter):
    """Of `HGNetV2Backbone`."""


class MetaCLIP2ImageConverter(ImageConverter):
    """Of `MetaCLIP2Backbone`."""


class MiTImageConverter(ImageConverter):
    """Of `MiTBackbone`."""


class MobileNetImageConverter(ImageConverter):
    """Of `MobileNetBackbone`."""


class MobileNetV5ImageConverter(ImageConverter):
    """Of `MobileNetV5Backbone`."""


class PARSeqImageConverter(ImageConverter):
    """Of `PARSeqBackbone`."""


class PaliGemmaImageConverter(ImageConverter):
    """Of `PaliGemmaBackbone`."""


class ResNetImageConverter(ImageConverter):
    """Of `ResNetBackbone`."""


class RetinaNetImageConverter(ImageConverter):
    """Of `RetinaNetBackbone`."""


class SAMImageConverter(ImageConverter):
    """Of `SAMBackbone`."""


class SegFormerImageConverter(ImageConverter):
    """Of `SegFormerBackbone`."""


class SigLIPImageConverter(ImageConverter):
    """Of `SigLIPBackbone`."""


class SwinTransformerImageConverter(ImageConverter):
    """Of `SwinTransformerBackbone`."""


class VGGImageConverter(ImageConverter):
    """Of `VGGBackbone`."""


class ViTImageConverter(ImageConverter):
    """Of `ViTBackbone`."""


class VideoPrismImageConverter(ImageConverter):
    """Of `VideoPrismBackbone`."""


class XceptionImageConverter(ImageConverter):
    """Of `XceptionBackbone`."""


class SAM3ImageConverter(ImageConverter):
    """Of `SAM3PromptableConceptBackbone`."""

    backbone: ClassVar[str | None] = "SAM3PromptableConceptBackbone"


class Gemma3ImageConverter(ImageConverter):
    """Of `Gemma3Backbone`; in float32."""

    fixed_dtype = "float32"


class Gemma3nImageConverter(ImageConverter):
    """Of `Gemma3nBackbone`; in float32."""

    fixed_dtype = "float32"


class T5Gemma2ImageConverter(ImageConverter):
    """Of `T5Gemma2Backbone`; in float32."""

    fixed_dtype = "float32"


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
