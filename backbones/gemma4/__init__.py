"""Gemma 4."""

from .audio import Gemma4AudioEncoder
from .backbone import Gemma4Backbone
from .vision import Gemma4VisionEncoder

__all__ = ["Gemma4AudioEncoder", "Gemma4Backbone", "Gemma4VisionEncoder"]
