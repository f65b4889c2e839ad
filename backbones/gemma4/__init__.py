"""Gemma 4."""

from .assistant import Gemma4AssistantCausalLM
from .audio import Gemma4AudioEncoder
from .backbone import Gemma4Backbone
from .vision import Gemma4VisionEncoder

__all__ = ["Gemma4AssistantCausalLM", "Gemma4AudioEncoder", "Gemma4Backbone", "Gemma4VisionEncoder"]
