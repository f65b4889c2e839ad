"""Stable Diffusion 3 (arXiv:2403.03206)."""

from .backbone import StableDiffusion3Backbone
from .mmdit import MMDiT
from .t5_encoder import T5Encoder

__all__ = ["MMDiT", "StableDiffusion3Backbone", "T5Encoder"]
