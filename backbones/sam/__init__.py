"""Segment Anything (arXiv:2304.02643)."""

from .backbone import SAMBackbone
from .mask_decoder import SAMMaskDecoder
from .prompt_encoder import SAMPromptEncoder

__all__ = ["SAMBackbone", "SAMMaskDecoder", "SAMPromptEncoder"]
