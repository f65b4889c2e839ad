"""Segment Anything 3 (arXiv:2511.16719)."""

from .backbone import SAM3PromptableConceptBackbone
from .detr_decoder import SAM3DetrDecoder
from .detr_encoder import SAM3DetrEncoder
from .geometry import SAM3GeometryEncoder
from .mask_decoder import SAM3MaskDecoder
from .text import SAM3TextEncoder
from .vision import SAM3VisionEncoder

__all__ = [
    "SAM3DetrDecoder",
    "SAM3DetrEncoder",
    "SAM3GeometryEncoder",
    "SAM3MaskDecoder",
    "SAM3PromptableConceptBackbone",
    "SAM3TextEncoder",
    "SAM3VisionEncoder",
]
