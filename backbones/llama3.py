"""Llama 3 (arXiv:2407.21783)."""

from __future__ import annotations

from .llama import LlamaBackbone


class Llama3Backbone(LlamaBackbone):
    """Llama's decoder, with another vocabulary and other rotary settings in its presets."""
