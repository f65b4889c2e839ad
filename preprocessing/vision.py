"""Images of tasks that know nothing but images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .images.converter import ImageConverter, as_numbers
from .preprocessor import Preprocessor, with_labels


class _ImagePreprocessor(Preprocessor):
    """Images, with what belongs to them."""

    image_converter: ImageConverter | None

    def __init__(self, image_converter: ImageConverter | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_converter = image_converter

    def __call__(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Images for the backbone, labels and weights behind them if there are some.

        Args:
            x: whatever an `ImageConverter` takes; also a pair, or a list of pairs, of these and
                their labels.
            y: labels.
            sample_weight: of the labels.
        """
        x, y, sample_weight = in_columns(x, y, sample_weight)
        x, y = self.converted(x, y)
        return with_labels(x, as_numbers(y), as_numbers(sample_weight))

    def converted(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Images and labels for the backbone."""
        return (x if self.image_converter is None else self.image_converter(x)), y


class ImageClassifierPreprocessor(_ImagePreprocessor):
    """Images and their classes.

    Args:
        image_converter: the model's; without one images are left as they are.
    """

    task = "image_classifier"


class DepthEstimatorPreprocessor(_ImagePreprocessor):
    """Images and their depths, which are left as they are.

    Args:
        image_converter: the model's; without one images are left as they are.
    """

    task = "depth_estimator"


class ImageSegmenterPreprocessor(_ImagePreprocessor):
    """Images and their masks.

    Args:
        image_converter: the model's; without one images are left as they are.
        resize_output_mask: whether masks follow their images, as their nearest pixels.
    """

    task = "image_segmenter"
    # KerasHub does not save it.
    lost = ("resize_output_mask",)

    def __init__(
        self,
        image_converter: ImageConverter | None = None,
        resize_output_mask: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_converter, **kwargs)
        self.resize_output_mask = resize_output_mask

    def converted(self, x: Any, y: Any) -> tuple[Any, Any]:
        if y is None or not self.resize_output_mask or self.image_converter is None:
            return super().converted(x, y)
        found = self.image_converter({"images": x, "segmentation_masks": y})
        return found["images"], found["segmentation_masks"]


class ObjectDetectorPreprocessor(_ImagePreprocessor):
    """Images and their boxes `{"boxes": …, "labels": …}`, which follow them.

    Args:
        image_converter: the model's; without one images are left as they are.
    """

    task = "object_detector"

    def converted(self, x: Any, y: Any) -> tuple[Any, Any]:
        if y is None or self.image_converter is None:
            return super().converted(x, y)
        found = self.image_converter({"images": x, "bounding_boxes": y})
        return found["images"], found["bounding_boxes"]


ImageObjectDetectorPreprocessor = ObjectDetectorPreprocessor


class SAMImageSegmenterPreprocessor(ImageSegmenterPreprocessor):
    """Images `{"images": …, "points": …, …}` with prompts, which are left as they are: points and
    boxes are those of the resized images.
    """

    backbone = "SAMBackbone"
    processor = "SamProcessor"

    def converted(self, x: Any, y: Any) -> tuple[Any, Any]:
        if not isinstance(x, Mapping) or "images" not in x:
            raise ValueError("SAM's input is a dictionary of 'images' and prompts.")
        images, _ = _ImagePreprocessor.converted(self, x["images"], None)
        return {**as_numbers(x), "images": images}, y


def in_columns(x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Images, labels and weights, also of a tuple, or of a list of tuples as a `DataLoader` has."""
    if y is not None or sample_weight is not None:
        return x, y, sample_weight
    if isinstance(x, list) and x and isinstance(x[0], tuple):
        columns = zip(*x, strict=True)
        x = tuple(_column(list(column)) for column in columns)
    if not isinstance(x, tuple):
        return x, None, None
    if len(x) > 3:
        raise ValueError(f"A sample is an image, its label and its weight; this has {len(x)}.")
    return (*x, None, None)[:3]


def _column(items: list[Any]) -> Any:
    """Dictionaries in a list as a dictionary of lists."""
    if not isinstance(items[0], Mapping):
        return items
    return {key: [item[key] for item in items] for key in items[0]}


# Of families.


class BASNetPreprocessor(ImageSegmenterPreprocessor):
    backbone = "BASNetBackbone"
    task = ""


class DeepLabV3ImageSegmenterPreprocessor(ImageSegmenterPreprocessor):
    backbone = "DeepLabV3Backbone"
    keras_module = "keras_hub.src.models.deeplab_v3.deeplab_v3_image_segmeter_preprocessor"


class SegFormerImageSegmenterPreprocessor(ImageSegmenterPreprocessor):
    backbone = "SegFormerBackbone"


class DepthAnythingDepthEstimatorPreprocessor(DepthEstimatorPreprocessor):
    backbone = "DepthAnythingBackbone"


class DFineObjectDetectorPreprocessor(ObjectDetectorPreprocessor):
    backbone = "DFineBackbone"


class RetinaNetObjectDetectorPreprocessor(ObjectDetectorPreprocessor):
    backbone = "RetinaNetBackbone"


class CSPNetImageClassifierPreprocessor(ImageClassifierPreprocessor):
    backbone = "CSPNetBackbone"


class DeiTImageClassifierPreprocessor(ImageClassifierPreprocessor):
    backbone = "DeiTBackbone"


class DenseNetImageClassifierPreprocessor(ImageClassifierPreprocessor):
    backbone = "DenseNetBackbone"


class EfficientNetImageClassifierPreprocessor(ImageClassifierPreprocessor):
    backbone = "EfficientNetBackbone"


class HGNetV2ImageClassifierPreprocessor(ImageClassifierPreprocessor):
    backbone = "HGNetV2Backbone"


class MiTImageClassifierPreprocessor(ImageClassifierPreprocessor):
    backbone = "MiTBackbone"


class MobileNetImageClassifierPreprocessor(ImageClassifierPreprocessor):
    backbone = "MobileNetBackbone"


class MobileNetV5ImageClassifierPreprocessor(ImageClassifierPreprocessor):
    backbone = "MobileNetV5Backbone"


class ResNetImageClassifierPreprocessor(ImageClassifierPreprocessor):
    backbone = "ResNetBackbone"


class SwinTransformerImageClassifierPreprocessor(ImageClassifierPreprocessor):
    backbone = "SwinTransformerBackbone"


class VGGImageClassifierPreprocessor(ImageClassifierPreprocessor):
    backbone = "VGGBackbone"


class ViTImageClassifierPreprocessor(ImageClassifierPreprocessor):
    backbone = "ViTBackbone"


class XceptionImageClassifierPreprocessor(ImageClassifierPreprocessor):
    backbone = "XceptionBackbone"
