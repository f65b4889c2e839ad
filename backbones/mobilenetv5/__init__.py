"""MobileNetV5, the vision encoder of Gemma 3n."""

from .backbone import MobileNetV5Backbone

__all__ = ["MobileNetV5Backbone"]
