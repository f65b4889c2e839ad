"""Gemma 3 (arXiv:2503.19786) and EmbeddingGemma (arXiv:2509.20354)."""

from .backbone import Gemma3Backbone
from .vision import Gemma3VisionEncoder

__all__ = ["Gemma3Backbone", "Gemma3VisionEncoder"]
