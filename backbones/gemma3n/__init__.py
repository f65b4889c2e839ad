"""Gemma 3n."""

from .backbone import Gemma3nBackbone

__all__ = ["Gemma3nBackbone"]
