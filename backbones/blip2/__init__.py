"""BLIP-2."""

from .backbone import BLIP2Backbone
from .flan_t5 import BLIP2FlanT5
from .opt import BLIP2CustomOPT
from .qformer import BLIP2QFormer
from .vision import BLIP2VisionEncoder

__all__ = [
    "BLIP2Backbone",
    "BLIP2CustomOPT",
    "BLIP2FlanT5",
    "BLIP2QFormer",
    "BLIP2VisionEncoder",
]
