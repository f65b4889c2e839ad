"""Qwen3.5."""

from .backbone import Qwen3_5Backbone
from .moe import Qwen3_5MoeBackbone
from .vision import Qwen3_5VisionEncoder

__all__ = ["Qwen3_5Backbone", "Qwen3_5MoeBackbone", "Qwen3_5VisionEncoder"]
