"""BLOOM's tokenizer (arXiv:2211.05100)."""

from __future__ import annotations

from .base import named
from .byte_pair import BytePairTokenizer


class BloomTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`; marks of several scripts end a word."""

    backbone = "BloomBackbone"
    split_pattern = r" ?[^(\s|[.,!?…。，、।۔،])]+"
    special = named(start_token="<s>", end_token="</s>", pad_token="<pad>")
